"""Runs a plan: one measurement after the other, each in processes of its own, and makes rows of what they found.

Knows the order of things and which figures of which rank make a row. It loads no network itself: PyTorch is imported by
the measuring processes only, and their GPU holds nothing of anybody else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

from worker.bench.clocks import ClockSampler
from worker.bench.figures import SCHEMA, Comparison, Floor, NotMeasured, Part, Quantiles, Report, Row, Versions
from worker.bench.jobs import CompareJob, RowsJob
from worker.bench.plan import Device, Plan
from worker.bench.ranks import CannotMeasure, RankBroke, Say, in_ranks
from worker.bench.stretch import Compared, Found, Stretch
from worker.bench.work import network_flop
from worker.pipeline.config import preset
from worker.pipeline.precision import Precision
from worker.pipeline.rank_counts import dit_ranks_of

Finds = TypeVar("Finds")


def run(plan: Plan, *, say: Say) -> Report:
    """What could not be measured is in the report, with its reason; nothing is raised for that."""
    made_at = datetime.now(UTC)
    with ClockSampler() as clocks:
        findings = _Run(plan, clocks, say)
        findings.measure()
    return Report(
        schema=SCHEMA,
        made_at=made_at.isoformat(timespec="seconds"),
        plan=asdict(plan),
        weights="drawn from a seed" if plan.weights is None else str(plan.weights),
        versions=findings.versions,
        rows=tuple(findings.rows),
        comparisons=tuple(findings.comparisons),
        not_measured=tuple(findings.not_measured),
    )


class _Run:
    """One plan on its way."""

    def __init__(self, plan: Plan, clocks: ClockSampler, say: Say) -> None:
        self.rows: list[Row] = []
        self.comparisons: list[Comparison] = []
        self.not_measured: list[NotMeasured] = []
        self.versions: Versions | None = None
        self._plan = plan
        self._clocks = clocks
        self._say = say

    def measure(self) -> None:
        """Everything, the shortest first."""
        plan = self._plan
        precisions = [Precision(name) for name in plan.precisions]
        if Part.VAE in plan.parts:
            self._or_say_why(Part.VAE, Precision.FULL, self._vae)
        for part, measure in ((Part.DIT, self._dit), (Part.RENDER, self._render)):
            for ranks in plan.ranks if part in plan.parts else ():
                for precision in precisions:
                    self._or_say_why(part, precision, partial(measure, precision, ranks))
        for steps in plan.steps if plan.compare else ():
            self._or_say_why("comparison", " and ".join(plan.compare), partial(self._compare, steps))

    def _or_say_why(self, what: str, precision: str, measure: Callable[[], None]) -> None:
        try:
            measure()
        except (CannotMeasure, RankBroke) as error:
            self._say(f"{what}, {precision}: not measured")
            self.not_measured.append(NotMeasured(what=str(what), precision=str(precision), reason=str(error)))

    def _vae(self) -> None:
        found = self._found_for_rows("worker.bench.vae", Precision.FULL, devices=self._plan.devices(1))
        self._keep(Part.VAE, Precision.FULL, found, ranks=1)

    def _dit(self, precision: Precision, ranks: int) -> None:
        found = self._found_for_rows("worker.bench.dit", precision, devices=self._plan.dit_devices(ranks))
        self._keep(Part.DIT, precision, found, ranks=dit_ranks_of(ranks))

    def _render(self, precision: Precision, ranks: int) -> None:
        plan = self._plan
        with ThreadPoolExecutor(plan.replicas) as at_once:
            groups = [
                at_once.submit(
                    self._found_for_rows, "worker.bench.render", precision, devices=plan.devices(ranks, replica=replica)
                )
                for replica in range(plan.replicas)
            ]
        for replica, group in enumerate(groups):
            self._keep(Part.RENDER, precision, group.result(), ranks=ranks, replica=replica, replicas=plan.replicas)

    def _found_for_rows(self, module: str, precision: Precision, *, devices: Sequence[str]) -> list[Found]:
        plan = self._plan
        job = RowsJob(
            preset=plan.preset,
            precision=precision,
            memory=plan.memory,
            steps=plan.steps,
            height=plan.height,
            width=plan.width,
            blocks=plan.blocks,
            weights=plan.weights,
        )
        return self._found(module, job, finds=Found, devices=devices)

    def _compare(self, steps: int) -> None:
        plan = self._plan
        job = CompareJob(
            preset=plan.preset,
            ways=plan.compare,
            steps=steps,
            height=plan.height,
            width=plan.width,
            blocks=plan.compared_blocks,
            weights=plan.weights,
            audio=plan.audio,
            image=plan.image,
        )
        found = self._found("worker.bench.compare", job, finds=Compared, devices=plan.devices(1))
        self.comparisons.extend(found[0].comparisons)
        self.versions = self.versions or found[0].versions

    def _found(self, module: str, job: object, *, finds: type[Finds], devices: Sequence[str]) -> list[Finds]:
        return in_ranks(module, job, finds=finds, devices=devices, threads=self._plan.threads, say=self._say)

    def _keep(
        self,
        part: Part,
        precision: Precision,
        found: Sequence[Found],
        *,
        ranks: int,
        replica: int = 0,
        replicas: int = 1,
    ) -> None:
        """Rows of one measurement: rank 0's times, everybody's memory and clocks."""
        plan, config = self._plan, preset(self._plan.preset).dit
        of_the_dit = max((one.versions for one in found), key=lambda versions: len(versions.attention))
        if self.versions is None or not self.versions.attention:
            self.versions = of_the_dit
        gpus = sorted({one.gpu for one in found if one.gpu is not None})
        for number, seen in enumerate(found[0].stretches):
            of_all = [one.stretches[number] for one in found]
            self.rows.append(
                Row(
                    what=part,
                    preset=plan.preset,
                    precision=_name(precision, plan.device),
                    memory=plan.memory,
                    steps=seen.steps,
                    ranks=ranks,
                    replica=replica,
                    replicas=replicas,
                    gpus=len(gpus),
                    height=plan.height,
                    width=plan.width,
                    block_ms=seen.block_ms,
                    slowest_before_ms=seen.slowest_before_ms,
                    writing_ms=Quantiles.of(seen.writing_ms) if seen.writing_ms else None,
                    frames_per_second=1000 * config.frames_per_block / seen.block_ms.mean,
                    network_tflop=None
                    if seen.steps is None
                    else network_flop(config, height=plan.height, width=plan.width, steps=seen.steps) / 1e12,
                    floor=_slowest(of_all),
                    peak_gib=tuple(stretch.peak_gib for stretch in of_all),
                    clocks=self._clocks.during(seen.began_at, seen.ended_at, gpus=gpus),
                    start=found[0].start if number == 0 else None,
                )
            )


def _slowest(stretches: Sequence[Stretch]) -> Floor:
    """Ranks work at the same time, so the one with the highest floor sets the pace."""
    return max((stretch.floor for stretch in stretches), key=lambda floor: floor.ms)


def _name(precision: Precision, device: Device) -> str:
    """The network's own dtype by its true name."""
    return "float32" if precision is Precision.FULL and device is Device.CPU else precision.value
