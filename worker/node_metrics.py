"""Figures of a node for Prometheus, and when its group last moved."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from worker.group.request import RenderPhase, RenderProgress
from worker.group.stations import Stations
from worker.group.warm_group import GroupState, WarmGroup

BLOCK_BUCKETS_S = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.8, 1.0, 2.0, 5.0, 10.0)


class NodeMetrics:
    """Counts what the group draws. `registry` is this node's own, not the process-wide one."""

    def __init__(self, group: WarmGroup, *, stations: Stations) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_GroupCollector(group))
        self.registry.register(_StationsCollector(stations))
        self._blocks = Counter("realvideo_blocks", "Blocks drawn.", registry=self.registry)
        self._block_seconds = Histogram(
            "realvideo_block_seconds",
            "Time between two blocks of one render.",
            buckets=BLOCK_BUCKETS_S,
            registry=self.registry,
        )
        self._lock = threading.Lock()
        self._last: tuple[float, int] | None = None
        self.last_progress_at: float | None = None
        """Seconds of the wall clock since the epoch."""

    def on_progress(self, progress: RenderProgress) -> None:
        """Every progress of every render, from any thread. One is drawn at a time, and its blocks come in order."""
        self.last_progress_at = time.time()
        if progress.phase is not RenderPhase.RENDERING or progress.blocks_done == 0:
            return
        now = time.monotonic()
        with self._lock:
            last, self._last = self._last, (now, progress.blocks_done)
        if last is None or progress.blocks_done <= last[1]:  # the first that is heard of this video
            self._blocks.inc()
            return
        drawn = progress.blocks_done - last[1]
        self._blocks.inc(drawn)
        self._block_seconds.observe((now - last[0]) / drawn)


class _GroupCollector(Collector):
    """Reads the group when it is scraped."""

    def __init__(self, group: WarmGroup) -> None:
        self._group = group

    def collect(self) -> Iterator[Metric]:
        status = self._group.status
        seconds = self._group.seconds_in_states()
        by_state = CounterMetricFamily(
            "realvideo_group_state_seconds", "Time the group spent in each state.", labels=["state"]
        )
        for state in GroupState:
            by_state.add_metric([state], seconds.get(state, 0.0))
        yield by_state
        warm = seconds.get(GroupState.READY, 0.0) + seconds.get(GroupState.BUSY, 0.0)
        yield GaugeMetricFamily(
            "realvideo_group_idle_share",
            "Share of its warm time that the group waited for a job.",
            value=seconds.get(GroupState.READY, 0.0) / warm if warm else 0.0,
        )
        yield GaugeMetricFamily(
            "realvideo_group_ready",
            "1 when the group is warm, busy or not.",
            value=status.state in (GroupState.READY, GroupState.BUSY),
        )
        dit = self._group.dit_seconds
        yield CounterMetricFamily("realvideo_dit_busy_seconds", "Time that the DiT denoised.", value=dit.busy)
        yield CounterMetricFamily(
            "realvideo_dit_shared_seconds",
            "Time that encoders and decoder had the device of a DiT that has no other for them.",
            value=dit.shared,
        )
        idle = CounterMetricFamily(
            "realvideo_dit_idle_seconds",
            "Time that the DiT did nothing although a video was there to be drawn.",
            labels=["where"],
        )
        idle.add_metric(["between_videos"], dit.idle_between)
        idle.add_metric(["within_a_video"], dit.idle_within)
        yield idle
        yield CounterMetricFamily("realvideo_group_restarts", "Groups launched after a failure.", value=status.restarts)
        memory = GaugeMetricFamily(
            "realvideo_device_memory_bytes", "Memory of each rank's device.", labels=["rank", "device", "kind"]
        )
        for rank, device in enumerate(status.devices):
            memory.add_metric([str(rank), device.name, "total"], device.memory_total_bytes)
            memory.add_metric([str(rank), device.name, "used"], device.memory_used_bytes)
        yield memory


class _StationsCollector(Collector):
    """Counts who is where when it is scraped."""

    def __init__(self, stations: Stations) -> None:
        self._stations = stations

    def collect(self) -> Iterator[Metric]:
        jobs = GaugeMetricFamily("realvideo_node_jobs", "Jobs on this node by where they stand.", labels=["station"])
        for station, count in self._stations.counts().items():
            jobs.add_metric([station], count)
        yield jobs
