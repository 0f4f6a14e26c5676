"""Checks a job's request against what this installation allows and holds. Knows settings, uploads and storage.

Only what can be told without fetching: the worker that fetches an input resolves its name, checks its address and reads
it. Every complaint names its field; all of them are told at once.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import select

from api.errors import ApiError, ErrorCode, FieldProblem
from api.job_view import UPLOAD_PREFIX
from api.schemas import JobCreate
from api.services import Services
from api.settings import ApiSettings
from api.storage import StorageUnavailableError
from api.urls import complaint_about
from models.ids import IdPrefix
from models.job import AudioMode, LengthPolicy, SinkRotation, SizePolicy
from models.presets import PICTURE_SIZES
from models.queues import Priority
from models.upload import Upload

LONGEST_BY_PICTURE = 704
MOST_PIXELS_BY_PICTURE = 704 * 384
"""The largest that the picture can decide: the reference's frame for 16:9."""

_S3_URI = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/(.{1,1024})")


@dataclass(frozen=True)
class CheckedInput:
    """What to make, complete and allowed. Sources as they are stored; lengths in seconds."""

    audio_source: str
    image_source: str | None
    video_source: str | None
    reference_time_s: float | None
    prompt: str
    seed: int
    fps: int
    size_policy: SizePolicy
    width: int | None
    height: int | None
    denoising_steps: int
    audio_mode: AudioMode
    sink_rotation: SinkRotation
    duration_s: float | None
    length_policy: LengthPolicy
    preset: str
    priority: Priority


def check_input(body: JobCreate, services: Services, *, tenant_id: str) -> CheckedInput:
    """The request with its defaults filled in. Raises ApiError naming every field that is not allowed."""
    settings = services.settings
    preset = settings.default_preset if body.preset is None else body.preset
    size_policy = body.size_policy or _usual_size_policy(body, preset)
    width, height = _size(body, size_policy, settings)
    checked = CheckedInput(
        audio_source=_stored(body.audio),
        image_source=None if body.image is None else _stored(body.image),
        video_source=None if body.video is None else _stored(body.video),
        reference_time_s=body.reference_time,
        prompt=settings.default_prompt if body.prompt is None else body.prompt,
        seed=settings.default_seed if body.seed is None else body.seed,
        fps=settings.default_fps if body.fps is None else body.fps,
        size_policy=size_policy,
        width=width,
        height=height,
        denoising_steps=settings.default_denoising_steps if body.denoising_steps is None else body.denoising_steps,
        audio_mode=body.audio_mode or AudioMode.WINDOWED,
        sink_rotation=body.sink_rotation or SinkRotation.EXACT,
        duration_s=body.duration,
        length_policy=body.length_policy or LengthPolicy.REJECT,
        preset=preset,
        priority=body.priority or Priority.NORMAL,
    )
    found = [*_limit_problems(checked, settings), *_source_problems(body, services, tenant_id=tenant_id)]
    if found:
        raise _error_of(found)
    return checked


def _usual_size_policy(body: JobCreate, preset: str) -> SizePolicy:
    """By the picture for a preset with sizes of its own, unless the body names one."""
    by_picture = preset in PICTURE_SIZES and body.width is None and body.height is None
    return SizePolicy.REFERENCE if by_picture else SizePolicy.EXACT


def _size(body: JobCreate, size_policy: SizePolicy, settings: ApiSettings) -> tuple[int | None, int | None]:
    """Width and height in pixels; None where the picture decides."""
    if size_policy is not SizePolicy.EXACT:
        return None, None
    return (
        settings.default_width if body.width is None else body.width,
        settings.default_height if body.height is None else body.height,
    )


def _stored(source: str) -> str:
    return f"{UPLOAD_PREFIX}{source}" if _is_upload(source) else source


def _is_upload(source: str) -> bool:
    return source.startswith(f"{IdPrefix.UPLOAD}_")


def _limit_problems(checked: CheckedInput, settings: ApiSettings) -> Iterator[FieldProblem]:
    if checked.preset not in settings.presets:
        yield _problem(ErrorCode.unknown_preset, "preset", f"must be one of: {', '.join(settings.presets)}")
    if checked.fps > settings.max_fps:
        yield _problem(ErrorCode.fps_out_of_limits, "fps", f"must be at most {settings.max_fps}")
    yield from _size_problems(checked, settings)
    if checked.duration_s is not None and checked.duration_s > settings.max_duration_s:
        at_most = f"must be at most {settings.max_duration_s:g} seconds"
        yield _problem(ErrorCode.duration_out_of_limits, "duration", at_most)


def _size_problems(checked: CheckedInput, settings: ApiSettings) -> Iterator[FieldProblem]:
    if checked.preset in PICTURE_SIZES:
        yield from _known_size_problems(checked, PICTURE_SIZES[checked.preset])
        return
    if checked.width is None or checked.height is None:
        if settings.max_side < LONGEST_BY_PICTURE or settings.max_pixels < MOST_PIXELS_BY_PICTURE:
            yield _problem(ErrorCode.size_out_of_limits, "size_policy", "must be exact: the limits here are tighter")
        return
    for field, side in (("width", checked.width), ("height", checked.height)):
        if not settings.min_side <= side <= settings.max_side:
            between = f"must be between {settings.min_side} and {settings.max_side}"
            yield _problem(ErrorCode.size_out_of_limits, field, between)
    if checked.width * checked.height > settings.max_pixels:
        at_most = f"width × height must be at most {settings.max_pixels}"
        yield _problem(ErrorCode.size_out_of_limits, "width", at_most)


def _known_size_problems(checked: CheckedInput, known: Sequence[tuple[int, int]]) -> Iterator[FieldProblem]:
    """Of a preset with sizes of its own, which the operator's limits do not concern: whoever offers it offers them."""
    if checked.size_policy is SizePolicy.REFERENCE_BARS:
        message = f"must not be reference_bars with the preset {checked.preset}; leave it out"
        yield _problem(ErrorCode.size_out_of_limits, "size_policy", message)
    if checked.size_policy is SizePolicy.EXACT and (checked.width, checked.height) not in known:
        sizes = " or ".join(f"{width} × {height}" for width, height in known)
        message = (
            f"width × height must be {sizes} with the preset {checked.preset}; "
            "without width, height and size_policy the picture decides"
        )
        yield _problem(ErrorCode.size_out_of_limits, "width", message)


def _source_problems(body: JobCreate, services: Services, *, tenant_id: str) -> Iterator[FieldProblem]:
    named = {"audio": body.audio, "image": body.image, "video": body.video}
    sources = {field: source for field, source in named.items() if source is not None}
    uploads = {field: source for field, source in sources.items() if _is_upload(source)}
    yield from _upload_problems(uploads, services, tenant_id=tenant_id)
    for field, source in sources.items():
        if field not in uploads:
            yield from _address_problems(field, source, services.settings)


def _upload_problems(uploads: dict[str, str], services: Services, *, tenant_id: str) -> Iterator[FieldProblem]:
    if not uploads:
        return
    with services.database.transaction() as session:
        owned = select(Upload.id, Upload.object_key).where(
            Upload.tenant_id == tenant_id, Upload.id.in_(set(uploads.values())), Upload.discarded_at.is_(None)
        )
        keys = {row.id: row.object_key for row in session.execute(owned).all()}
    for field, upload_id in uploads.items():
        if upload_id not in keys:
            yield _problem(ErrorCode.upload_unknown, field, f"there is no upload {upload_id}")
            continue
        try:
            size = services.storage.size_of(keys[upload_id])
        except StorageUnavailableError as error:
            raise ApiError(ErrorCode.storage_unavailable, headers={"Retry-After": "5"}) from error
        if size is None:
            yield _problem(ErrorCode.upload_missing, field, f"nothing was put to the URL of {upload_id} yet")
        elif size == 0:
            yield _problem(ErrorCode.upload_empty, field, f"the file of {upload_id} has 0 bytes")
        elif size > services.settings.max_upload_bytes:
            at_most = f"the file has {size} bytes; at most {services.settings.max_upload_bytes} are taken"
            yield _problem(ErrorCode.upload_too_large, field, at_most)


def _address_problems(field: str, source: str, settings: ApiSettings) -> Iterator[FieldProblem]:
    if source.startswith("s3://"):
        uri = _S3_URI.fullmatch(source)
        if uri is None:
            yield _problem(ErrorCode.url_not_allowed, field, "is not of the form s3://bucket/key")
        elif uri[1] not in settings.s3_allowed_input_buckets:
            yield _problem(ErrorCode.bucket_not_allowed, field, f"the bucket {uri[1]} is not one that may be read")
        return
    schemes = ("https", "http") if settings.allow_http_urls else ("https",)
    complaint = complaint_about(source, schemes=schemes, allow_private=settings.allow_http_urls)
    if complaint is not None:
        yield _problem(ErrorCode.url_not_allowed, field, f"the URL {complaint}")


def _problem(code: ErrorCode, field: str, message: str) -> FieldProblem:
    return FieldProblem(field=field, code=code.name, message=message)


def _error_of(found: Sequence[FieldProblem]) -> ApiError:
    """The one code they share, or the general one."""
    codes = {problem.code for problem in found}
    code = ErrorCode[codes.pop()] if len(codes) == 1 else ErrorCode.invalid_request
    return ApiError(code, "; ".join(f"{problem.field}: {problem.message}" for problem in found), errors=found)
