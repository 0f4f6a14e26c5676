"""Names of the objects in the storage. A tenant's objects lie below its id; an attempt's below its number.

An output's key holds the attempt, so two attempts of one job never write the same object and clients only ever see the
winner's. Checkpoints belong to the job, whose next attempt goes on from them, and lie apart, so that looking for those
of ended jobs does not mean looking at every output.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

TENANTS = "tenants/"
CHECKPOINTS = "checkpoints/"

_ATTEMPT_KEY = re.compile(r"tenants/(?P<tenant>[^/]+)/jobs/(?P<job>[^/]+)/(?P<attempt>[1-9][0-9]{0,8})/.+")
_CHECKPOINT_KEY = re.compile(r"checkpoints/(?P<tenant>[^/]+)/(?P<job>[^/]+)/.+")
_UPLOAD_KEY = re.compile(r"tenants/[^/]+/uploads/[^/]+")


class OutputName(StrEnum):
    VIDEO = "video.mp4"
    POSTER = "poster.jpg"
    PREVIEW = "preview.webp"


@dataclass(frozen=True, order=True)
class JobName:
    tenant_id: str
    job_id: str

    @property
    def checkpoint_prefix(self) -> str:
        return checkpoint_prefix(tenant_id=self.tenant_id, job_id=self.job_id)


@dataclass(frozen=True, order=True)
class AttemptName:
    tenant_id: str
    job_id: str
    attempt: int

    @property
    def prefix(self) -> str:
        return attempt_prefix(tenant_id=self.tenant_id, job_id=self.job_id, attempt=self.attempt)


def attempt_of(key: str) -> AttemptName | None:
    """Whose output an object is; None: it is no output."""
    found = _ATTEMPT_KEY.fullmatch(key)
    return found and AttemptName(found["tenant"], found["job"], int(found["attempt"]))


def checkpointed_job_of(key: str) -> JobName | None:
    """Whose checkpoint an object belongs to; None: to none."""
    found = _CHECKPOINT_KEY.fullmatch(key)
    return found and JobName(found["tenant"], found["job"])


def is_upload_key(key: str) -> bool:
    return _UPLOAD_KEY.fullmatch(key) is not None


def upload_key(*, tenant_id: str, upload_id: str) -> str:
    return f"tenants/{tenant_id}/uploads/{upload_id}"


def attempt_prefix(*, tenant_id: str, job_id: str, attempt: int) -> str:
    return f"tenants/{tenant_id}/jobs/{job_id}/{attempt}/"


def checkpoint_prefix(*, tenant_id: str, job_id: str) -> str:
    """Everything below it is deleted when the job has ended."""
    return f"{CHECKPOINTS}{tenant_id}/{job_id}/"


def checkpoint_key(name: str, *, tenant_id: str, job_id: str, attempt: int) -> str:
    """Two attempts of one job never write the same object; the later one may name the earlier one's."""
    return f"{checkpoint_prefix(tenant_id=tenant_id, job_id=job_id)}{attempt}/{name}"


def output_key(name: OutputName, *, tenant_id: str, job_id: str, attempt: int) -> str:
    return attempt_prefix(tenant_id=tenant_id, job_id=job_id, attempt=attempt) + name
