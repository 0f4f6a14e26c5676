"""A storage as the tests of the collector fill it and look into it."""

from dataclasses import dataclass
from pathlib import Path

from models.job import Job
from models.object_keys import OutputName, attempt_prefix, checkpoint_prefix, upload_key
from worker.storage import Storage


@dataclass(frozen=True)
class Bucket:
    storage: Storage
    directory: Path

    def put(self, key: str) -> str:
        file = self.directory / "content"
        file.write_bytes(b"content")
        self.storage.upload(file, key, content_type="video/mp4")
        return key

    def put_outputs(self, job: Job, attempt: int) -> list[str]:
        prefix = attempt_prefix(tenant_id=job.tenant_id, job_id=job.id, attempt=attempt)
        return [self.put(prefix + name) for name in OutputName]

    def put_checkpoints(self, job: Job) -> list[str]:
        prefix = checkpoint_prefix(tenant_id=job.tenant_id, job_id=job.id)
        return [self.put(prefix + name) for name in ("1/segments/0001.mp4", "1/latents.safetensors", "state.json")]

    def put_upload(self, tenant_id: str, upload_id: str) -> str:
        return self.put(upload_key(tenant_id=tenant_id, upload_id=upload_id))

    @property
    def keys(self) -> set[str]:
        return {key for top in ("tenants/", "checkpoints/") for page in self.storage.pages(top) for key in page}
