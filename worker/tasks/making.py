"""One attempt at a video, step by step: fetch, prepare, render, measure, upload. Every step needs the lease.

A long video is kept while it is drawn, and goes on where an earlier attempt came to.

Other attempts take the same steps beside it; only the drawing has to wait for its turn, in the group.

Knows files, the group behind its socket and the storage; writes nothing to the record but the progress.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from models.job import Job, Phase
from models.object_keys import OutputName, output_key
from models.output import OutputReport, OutputWarning
from models.transitions import OutputKeys, RenderMetrics
from worker.failpoints import Failpoint, failpoint
from worker.fetching import fetch
from worker.group.errors import RenderCanceled
from worker.group.link import Session
from worker.group.request import RenderPhase, RenderProgress, RenderRequest, RenderResult
from worker.media.checking import Expected, check
from worker.media.drawn import NOT_DRAWN, NOT_DRAWN_MESSAGE
from worker.media.inputs import PictureFile, PreparedInputs, VideoFile, prepare
from worker.media.length import LengthPolicy
from worker.media.measure import Measurement, measure
from worker.media.picture import SizeRule, size_policy
from worker.media.poster import Stills, make_stills
from worker.media.segments import Segmentation, Segments
from worker.pipeline.audio_mode import AudioMode
from worker.pipeline.config import PRESETS
from worker.pipeline.sink_rotation import SinkRotation
from worker.storage import StorageError, StoredObject
from worker.tasks.checkpointing import Checkpointing
from worker.tasks.desk import RenderDesk
from worker.tasks.lease import Lease, Standing
from worker.tasks.resuming import resume
from worker.tasks.video_identity import identity_of

FETCH_QUIET_S = 60.0
PREPARE_QUIET_S = 300.0
MEASURE_QUIET_S = 600.0
UPLOAD_QUIET_S = 900.0
WAIT_QUIET_S = 120.0
FINISH_QUIET_S = 150.0
"""How long a step may take without a sign of progress. What runs in it has limits of its own, mostly shorter.

A video that waits for its turn hears when the one before it moves. When that one hangs, it ends by its own deadline,
and within another such time there is a warm group again or the job is handed back.
"""

PHASES = {
    RenderPhase.WAITING: Phase.PREPARING,
    RenderPhase.ENCODING: Phase.ENCODING,
    RenderPhase.RENDERING: Phase.RENDERING,
    RenderPhase.MUXING: Phase.MUXING,
}
QUIET_S = {RenderPhase.WAITING: WAIT_QUIET_S, RenderPhase.MUXING: FINISH_QUIET_S}
"""None while the group encodes and draws: a live thread over a hung group is no heartbeat."""

CONTENT_TYPES = {
    OutputName.VIDEO: "video/mp4",
    OutputName.POSTER: "image/jpeg",
    OutputName.PREVIEW: "image/webp",
}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Made:
    """A video that is stored, verified, and fit to ship."""

    keys: OutputKeys
    output: OutputReport
    metrics: RenderMetrics


def make(job: Job, *, group: Session, lease: Lease, desk: RenderDesk, directory: Path) -> Made:
    """Raises what the lease and the group say, and the errors that `endings.py` sorts."""
    prepared = _prepare(job, lease=lease, desk=desk, directory=directory)
    failpoint(Failpoint.PREPARED, job.id)
    result = _render(job, prepared, group=group, lease=lease, desk=desk, directory=directory)
    lease.begin(Phase.MUXING, quiet_allowance_s=MEASURE_QUIET_S)
    measured = measure(result.video, sound=prepared.sound)
    check(
        measured,
        Expected(duration_s=prepared.duration_s, fps=job.fps, width=prepared.width, height=prepared.height),
    )
    stills = make_stills(result.video, poster=directory / "poster.jpg", preview=directory / "preview.webp")
    failpoint(Failpoint.MEASURED, job.id)
    return Made(
        keys=_upload(job, result.video, stills, measured, lease=lease, desk=desk),
        output=_report(measured, _warnings(job, prepared)),
        metrics=RenderMetrics(gpu_seconds=result.gpu_seconds, ms_per_block=result.ms_per_block),
    )


def _prepare(job: Job, *, lease: Lease, desk: RenderDesk, directory: Path) -> PreparedInputs:
    lease.begin(Phase.PREPARING, quiet_allowance_s=FETCH_QUIET_S, watching=directory)
    audio = _fetch(job.audio_source, job, desk=desk, into=directory / "audio")
    lease.check()
    portrait: PictureFile | VideoFile
    if job.image_source is not None:
        portrait = PictureFile(_fetch(job.image_source, job, desk=desk, into=directory / "image"))
    else:
        assert job.video_source is not None, "the table has one of the two"
        video = _fetch(job.video_source, job, desk=desk, into=directory / "video")
        portrait = VideoFile(video, reference_time_s=job.reference_time_s)
    lease.begin(Phase.PREPARING, quiet_allowance_s=PREPARE_QUIET_S, watching=directory)
    prepared = prepare(
        audio,
        portrait,
        size=size_policy(SizeRule(job.size_policy), width=job.width, height=job.height, known=_known_sizes(job)),
        duration_s=job.duration_s,
        length_policy=LengthPolicy(job.length_policy),
        limits=desk.media_limits,
        into=directory,
    )
    for warning in _warnings(job, prepared):
        log.warning("%s: %s [%s]", job.id, warning.message, warning.code)
    return prepared


def _known_sizes(job: Job) -> tuple[tuple[int, int], ...]:
    """Which presets there are is the group's to say: one that is not known here can draw any size."""
    config = PRESETS.get(job.preset)
    return () if config is None else config.picture_sizes


def _warnings(job: Job, prepared: PreparedInputs) -> tuple[OutputWarning, ...]:
    config = PRESETS.get(job.preset)
    if config is not None and config.drawn_portraits_only and not prepared.picture_is_drawn:
        return (OutputWarning(code=NOT_DRAWN, message=NOT_DRAWN_MESSAGE),)
    return ()


def _fetch(source: str, job: Job, *, desk: RenderDesk, into: Path) -> Path:
    return fetch(source, desk.places, tenant_id=job.tenant_id, into=into, limits=desk.fetch_limits)


def _render(
    job: Job, prepared: PreparedInputs, *, group: Session, lease: Lease, desk: RenderDesk, directory: Path
) -> RenderResult:
    """Draw the video, or what an earlier attempt has not drawn of it."""
    request = _request(job, prepared, directory=directory)
    plan = Segmentation.of(request.duration_s, output_fps=request.output_fps)
    if plan.count == 1:
        return _draw(job, request, group=group, lease=lease)
    pieces = pieces_directory(directory)
    pieces.mkdir()
    video = identity_of(request, desk.checkpoints.network)
    lease.begin(Phase.PREPARING, quiet_allowance_s=FETCH_QUIET_S, watching=directory)
    resumed = resume(
        job.id,
        job.checkpoint_key,
        video=video,
        plan=plan,
        storage=desk.storage,
        into=pieces,
        may_go_on=lease.check,
    )
    made = 0 if resumed is None else len(resumed.manifest.pieces)
    with Checkpointing(
        job,
        rules=desk.checkpoints,
        video=video,
        plan=plan,
        directory=pieces,
        resumed=resumed,
        lease=lease,
        database=desk.database,
        storage=desk.storage,
    ):
        return _draw(job, replace(request, segments=Segments(pieces, made=made)), group=group, lease=lease)


def pieces_directory(directory: Path) -> Path:
    """Of an attempt's directory: where the finished pieces of a long video are."""
    return directory / "pieces"


def _request(job: Job, prepared: PreparedInputs, *, directory: Path) -> RenderRequest:
    return RenderRequest(
        name=f"{job.id}.{job.attempt}",
        speech=prepared.speech,
        picture=prepared.picture,
        sound=prepared.sound,
        video=directory / "output.mp4",
        prompt=job.prompt,
        seed=job.seed,
        width=prepared.width,
        height=prepared.height,
        frames=prepared.frames,
        output_fps=job.fps,
        duration_s=prepared.duration_s,
        denoising_steps=job.denoising_steps,
        audio_mode=AudioMode(job.audio_mode),
        sink_rotation=SinkRotation(job.sink_rotation),
    )


def _draw(job: Job, request: RenderRequest, *, group: Session, lease: Lease) -> RenderResult:
    def on_progress(progress: RenderProgress) -> None:
        if progress.phase is RenderPhase.MUXING:
            lease.let_finish()
        lease.moved(
            PHASES[progress.phase],
            blocks_done=progress.blocks_done,
            blocks_total=progress.blocks_total,
            quiet_allowance_s=QUIET_S.get(progress.phase, 0.0),
        )
        if progress.phase is RenderPhase.RENDERING:
            failpoint(Failpoint.BLOCK, job.id)

    lease.begin(Phase.PREPARING, quiet_allowance_s=WAIT_QUIET_S)
    try:
        return group.render(request, on_progress=on_progress, should_cancel=lambda: lease.standing is not Standing.HELD)
    except RenderCanceled:
        lease.check()  # it says why
        raise


def _upload(
    job: Job, video: Path, stills: Stills, measured: Measurement, *, lease: Lease, desk: RenderDesk
) -> OutputKeys:
    """Store all parts. A part that is not stored as it was measured is a StorageError."""

    def store(path: Path, name: OutputName) -> StoredObject:
        lease.begin(Phase.UPLOADING, quiet_allowance_s=UPLOAD_QUIET_S)
        key = output_key(name, tenant_id=job.tenant_id, job_id=job.id, attempt=job.attempt)
        return desk.storage.upload(path, key, content_type=CONTENT_TYPES[name])

    stored = store(video, OutputName.VIDEO)
    _compare(stored, measured)
    return OutputKeys(
        video=stored.key,
        poster=store(stills.poster, OutputName.POSTER).key,
        preview=store(stills.preview, OutputName.PREVIEW).key,
    )


def _compare(stored: StoredObject, measured: Measurement) -> None:
    """What the disk gave to the upload is what it gave to the measurement."""
    if (stored.size_bytes, stored.sha256) != (measured.size_bytes, measured.sha256):
        raise StorageError(f"{stored.key} is not the video that was measured.")


def _report(measured: Measurement, warnings: tuple[OutputWarning, ...]) -> OutputReport:
    return OutputReport(
        duration_s=measured.duration_s,
        frames=measured.frames,
        fps=round(measured.fps),
        width=measured.width,
        height=measured.height,
        size_bytes=measured.size_bytes,
        sha256=measured.sha256,
        video_codec=measured.video_codec,
        audio_codec=measured.audio_codec,
        audio_duration_s=measured.audio_duration_s,
        av_difference_ms=measured.av_difference_ms,
        source_duration_s=measured.source_duration_s,
        loudness_lufs=measured.loudness.lufs,
        source_loudness_lufs=measured.source_loudness.lufs,
        warnings=warnings,
    )
