"""The shapes of jobs and lists on the wire, and the types their fields share. Knows JSON; knows no table.

Requests are strict: unknown fields and values of another JSON type are errors, never guessed at. Every time is UTC,
every length in seconds.
"""

import datetime as dt
import re
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from api.patterns import BATCH_ID, DELIVERY_ID, ENDPOINT_ID, JOB_ID, NO_NUL, SOURCE, UPLOAD_ID
from models.job import AudioMode, JobStatus, LengthPolicy, Phase, SinkRotation, SizePolicy
from models.queues import Priority

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
MAX_METADATA_PAIRS = 16
MAX_SEED = 2**53 - 1  # exact in every JSON parser


def _only_rfc3339(value: object) -> object:
    # pydantic would also take numbers as seconds since 1970
    if isinstance(value, str) and not _RFC3339.fullmatch(value):
        raise ValueError("a time looks like 2027-01-31T12:00:00Z")
    if not isinstance(value, str | dt.datetime | None):
        raise ValueError("a time is a string like 2027-01-31T12:00:00Z")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_only_rfc3339)]
Integer = Annotated[int, Field(strict=True)]
Seconds = Annotated[float, Field(strict=True, allow_inf_nan=False)]
JobId = Annotated[str, StringConstraints(pattern=JOB_ID)]
BatchId = Annotated[str, StringConstraints(pattern=BATCH_ID)]
UploadId = Annotated[str, StringConstraints(pattern=UPLOAD_ID)]
EndpointId = Annotated[str, StringConstraints(pattern=ENDPOINT_ID)]
DeliveryId = Annotated[str, StringConstraints(pattern=DELIVERY_ID)]
Source = Annotated[str, StringConstraints(max_length=2048, pattern=SOURCE)]
MetadataKey = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=NO_NUL)]
MetadataValue = Annotated[str, StringConstraints(max_length=512, pattern=NO_NUL)]
Metadata = Annotated[dict[MetadataKey, MetadataValue], Field(max_length=MAX_METADATA_PAIRS)]


class Request(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


T = TypeVar("T")


class Page(Answer, Generic[T]):
    """One page of a list, newest first."""

    object: Literal["list"] = "list"
    data: list[T]
    has_more: bool
    next: str | None = Field(description="the `after` of the next page; null on the last")


EXAMPLE = {"audio": "https://example.com/voice.wav", "image": "https://example.com/portrait.png"}


def _one_picture_one_size(schema: dict[str, Any]) -> None:
    schema["examples"] = [EXAMPLE, {**EXAMPLE, "custom_id": "lesson-7", "metadata": {"title": "Lesson 7"}, "fps": 25}]
    schema["oneOf"] = [
        {"required": ["image"], "properties": {"image": {"type": "string"}, "reference_time": {"type": "null"}}},
        {"required": ["video"], "properties": {"video": {"type": "string"}}},
    ]
    for branch, other in zip(schema["oneOf"], ("video", "image"), strict=True):
        branch["properties"][other] = {"type": "null"}
    schema["anyOf"] = [
        {"properties": {"size_policy": {"enum": [SizePolicy.EXACT, None]}}},
        {"properties": {"width": {"type": "null"}, "height": {"type": "null"}}},
    ]


class JobCreate(Request):
    """A video to make: a sound, and either an image or a video whose face it shows.

    A source is the id of an upload (`upl_…`), an object of an allowed bucket (`s3://bucket/key`) or an https URL.
    Fields left out, or null, take this installation's defaults.
    """

    model_config = ConfigDict(json_schema_extra=_one_picture_one_size)

    audio: Source = Field(description="speech: WAV, MP3, FLAC, M4A/AAC, OGG/Opus, or a video with a sound track")
    image: Source | None = Field(default=None, description="portrait: PNG, JPEG or WebP")
    video: Source | None = Field(
        default=None, description="its best face frame, or the one at `reference_time`, is used"
    )
    reference_time: Seconds | None = Field(default=None, ge=0, le=86_400, description="seconds; only with `video`")
    prompt: str | None = Field(default=None, min_length=1, max_length=2000, pattern=NO_NUL)
    seed: Integer | None = Field(default=None, ge=0, le=MAX_SEED)
    fps: Integer | None = Field(default=None, ge=1, le=60)
    size_policy: SizePolicy | None = Field(
        default=None,
        description="exact (the default, but for avatar): `width` × `height`, which the picture covers; reference: by"
        " the picture, about 512 × 512 pixels in 16:9, 4:3 or 1:1; reference_bars: the same with the released code's"
        " black bars. The preset avatar draws 192 × 192 and 144 × 192 only: reference, its default, takes the one that"
        " is nearer to the picture's shape",
    )
    width: Integer | None = Field(
        default=None, ge=16, le=4096, multiple_of=16, description="pixels; only with the size policy exact"
    )
    height: Integer | None = Field(
        default=None, ge=16, le=4096, multiple_of=16, description="pixels; only with the size policy exact"
    )
    denoising_steps: Literal[2, 4] | None = None
    audio_mode: AudioMode | None = Field(
        default=None,
        description="windowed (the default): a long sound without seams; reference: in pieces of 5 s that know nothing"
        " of each other, as the released service encodes it",
    )
    sink_rotation: SinkRotation | None = Field(
        default=None,
        description="exact (the default): the portrait stays as sharp in the last minute as in the first;"
        " reference_rounding: drifts as the released code does",
    )
    duration: Seconds | None = Field(default=None, gt=0, description="seconds the video shall last; null: as the sound")
    length_policy: LengthPolicy | None = Field(
        default=None, description="when the sound does not last `duration`: reject (the default), pad or trim"
    )
    preset: str | None = Field(default=None, max_length=64, pattern=NO_NUL)
    priority: Priority | None = Field(default=None, description="null: normal")
    deadline: Moment | None = Field(default=None, description="if no worker has begun by then, the job expires")
    batch_id: BatchId | None = None
    custom_id: str | None = Field(default=None, min_length=1, max_length=128, pattern=NO_NUL)
    metadata: Metadata | None = Field(default=None, description="at most 16 pairs; kept with the job, never looked at")
    webhook_endpoint_id: EndpointId | None = Field(default=None, description="null: every enabled endpoint is told")

    @model_validator(mode="after")
    def _one_picture(self) -> "JobCreate":
        if (self.image is None) == (self.video is None):
            raise ValueError("give either image or video")
        if self.reference_time is not None and self.video is None:
            raise ValueError("reference_time needs a video")
        return self

    @model_validator(mode="after")
    def _one_size(self) -> "JobCreate":
        by_picture = self.size_policy not in (None, SizePolicy.EXACT)
        if by_picture and (self.width is not None or self.height is not None):
            raise ValueError("with this size_policy the picture decides: leave width and height out")
        return self


class Progress(Answer):
    blocks_done: int
    blocks_total: int | None = Field(description="null until the sound was read")


class JobError(Answer):
    code: str
    message: str


class JobInput(Answer):
    """What was asked for, with the defaults filled in."""

    audio: str
    image: str | None
    video: str | None
    reference_time: float | None
    prompt: str
    seed: int
    fps: int
    size_policy: SizePolicy
    width: int | None = Field(description="null: the picture decides; see `output`")
    height: int | None = Field(description="null: the picture decides; see `output`")
    denoising_steps: int
    audio_mode: AudioMode
    sink_rotation: SinkRotation
    duration: float | None
    length_policy: LengthPolicy
    preset: str
    webhook_endpoint_id: str | None


class JobWarning(Answer):
    code: str
    message: str


class JobOutput(Answer):
    """The video, as measured on the finished file."""

    url: str = Field(description="works for about an hour; read the job again for a new one")
    duration: float
    frames: int
    fps: int
    width: int
    height: int
    bytes: int
    sha256: str
    warnings: list[JobWarning] = Field(
        description="what may not be expected of it; picture_not_drawn: the preset was trained on drawn portraits only"
    )


class JobMetrics(Answer):
    gpu_seconds: float | None
    ms_per_block: float | None


class JobOut(Answer):
    id: JobId
    object: Literal["job"] = "job"
    status: JobStatus
    phase: Phase | None = Field(description="what a running job is doing")
    progress: Progress
    queue_position: int | None = Field(description="1: next; null unless queued")
    eta: Moment | None = Field(description="when it will be finished, guessed from recent jobs; null: unknown or ended")
    created_at: Moment
    started_at: Moment | None
    completed_at: Moment | None
    expires_at: Moment | None = Field(description="when the output will be deleted; null: no such rule is set")
    attempt: int = Field(description="how often a worker has begun it")
    error: JobError | None
    input: JobInput
    output: JobOutput | None
    metrics: JobMetrics
    metadata: dict[str, str]
    batch_id: str | None
    custom_id: str | None
    priority: Priority
    deadline: Moment | None
    cancel_requested_at: Moment | None = Field(description="set while a running job is asked to stop")
    retry_of: str | None = Field(description="the ended job that this one repeats")


class JobPage(Page[JobOut]):
    """Jobs, newest first."""
