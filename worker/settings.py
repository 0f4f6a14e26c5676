"""What an operator can set of a worker: environment variables (`REALVIDEO_…`), read once at the entry point."""

import os
import socket
import tempfile
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from models.queues import Priority
from models.settings import CommonSettings
from worker.group.group import GroupSettings
from worker.layout import LAYOUT_PATTERN
from worker.pipeline.precision import MemoryUse, Precision


class WorkerSettings(CommonSettings):
    """One machine's worker: one preset, one set of weights, and as many nodes as its layout has replicas."""

    model_config = SettingsConfigDict(env_ignore_empty=True)  # what compose makes of a variable that is not set

    preset: str = Field(default="avatar", description="avatar, 14b (needs weights and a GPU), or tiny, for tests")
    layout: str = Field(
        default="auto",
        pattern=LAYOUT_PATTERN,
        description="how the GPUs are shared out: auto, throughput, latency, latency-shared, or RxK for R nodes of "
        "K ranks each",
    )
    ranks: int | None = Field(default=None, ge=1, description="the same as the layout 1xRANKS")
    gpus: tuple[int, ...] | None = Field(
        default=None,
        min_length=1,
        description="which of the GPUs that can be seen; with RxK the GPU of each rank. Default: all",
    )
    priorities: tuple[Priority, ...] = Field(
        default=tuple(Priority),
        min_length=1,
        description="which jobs are taken; with the high ones alone, `auto` is for latency",
    )
    weights: Path | None = Field(default=None, description="directory of the released weights, which 14b needs")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Precision | None = Field(
        default=None,
        description="bf16, or fp8 or fp8-attention: faster on a GPU. Default: bf16, and fp8 where memory is low",
    )
    memory: MemoryUse = Field(default=MemoryUse.AMPLE, description="low: fits a smaller GPU, and takes longer")
    threads_per_rank: int | None = Field(default=None, ge=1, description="default: the cores, shared by the ranks")

    node_name: str = Field(default_factory=socket.gethostname, pattern=r"^[A-Za-z0-9._-]{1,64}$")
    work_directory: Path = Field(
        default_factory=lambda: Path(tempfile.gettempdir()) / "realvideo-work",
        description="where the files of running attempts lie; each node has a directory of its own in it",
    )
    compiled: Path | None = Field(
        default=None,
        description="directory that keeps compiled kernels for the next start; default: Triton's own, ~/.triton",
    )

    health_host: str = "127.0.0.1"
    health_port: int = Field(default=0, ge=0, le=65535, description="0: any free port, which is logged")

    checkpoint_every_s: float = Field(
        default=30.0, gt=0, description="what is drawn of a long video is kept as often as that"
    )

    drain_grace_s: float = Field(default=25.0, gt=0, description="after SIGTERM, until what still runs is killed")
    start_deadline_s: float = Field(default=900.0, gt=0, description="until all ranks have their weights")
    progress_deadline_s: float = Field(
        default=40.0,
        gt=0,
        description="longest silence of a rendering group; less than a lease can wait",
    )

    group_failures_allowed: int = Field(
        default=5,
        ge=0,
        description="within ten minutes, those under one video twice at most; one more, and the node ends as unhealthy",
    )

    @model_validator(mode="after")
    def _one_layout(self) -> "WorkerSettings":
        if self.ranks is not None and self.layout != "auto":
            raise ValueError("set one of REALVIDEO_LAYOUT and REALVIDEO_RANKS")
        return self

    def group_settings(self) -> GroupSettings:
        """Of a node, which has its `ranks` and `gpus` by then."""
        ranks = self.ranks or 1
        return GroupSettings(
            preset=self.preset,
            ranks=ranks,
            gpus=self.gpus or (),
            weights=self.weights,
            device=self.device,
            precision=self.precision,
            memory=self.memory,
            compiled=self.compiled,
            threads_per_rank=self.threads_per_rank or max(1, (os.cpu_count() or 1) // ranks),
            start_deadline_s=self.start_deadline_s,
            progress_deadline_s=self.progress_deadline_s,
        )

    @property
    def node_directory(self) -> Path:
        return self.work_directory / self.node_name

    @property
    def attempts_directory(self) -> Path:
        return self.node_directory / "attempts"
