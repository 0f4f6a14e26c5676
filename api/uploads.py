"""The resource `/v1/uploads`: a place for an input file, and a signed URL to put it there. Takes no bytes itself."""

import datetime as dt
from typing import Annotated, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import ConfigDict, Field, StringConstraints
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.auth import JobsReader, JobsWriter
from api.errors import ApiError, ErrorCode, field_error
from api.idempotency import Created, IdempotencyKey, create_once, identify
from api.openapi import IDEMPOTENT, JSON_BODY, problems
from api.patterns import FILE_NAME, MEDIA_TYPE
from api.schemas import Answer, Integer, Moment, UploadId
from api.schemas import Request as RequestBody
from api.services import InjectedServices
from api.storage import StorageUnavailableError
from models.ids import IdPrefix, new_id
from models.object_keys import upload_key
from models.upload import Upload

router = APIRouter(tags=["uploads"])


class UploadCreate(RequestBody):
    model_config = ConfigDict(json_schema_extra={"examples": [{"filename": "voice.wav", "content_type": "audio/wav"}]})

    filename: Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=FILE_NAME)] = Field(
        description="for people; decides nothing"
    )
    content_type: Annotated[str, StringConstraints(max_length=127, pattern=MEDIA_TYPE)] = "application/octet-stream"
    bytes: Integer | None = Field(default=None, ge=1, description="if given, exactly so many are taken")


class PutRequest(Answer):
    """The request that puts the file: this method, URL and headers, with the file as its body."""

    method: Literal["PUT"] = "PUT"
    url: str
    headers: dict[str, str]
    expires_at: Moment


class UploadOut(Answer):
    id: UploadId
    object: Literal["upload"] = "upload"
    filename: str
    content_type: str
    bytes: int | None = Field(description="stored; null: nothing was put yet")
    created_at: Moment


class NewUpload(UploadOut):
    put: PutRequest


@router.post(
    "/v1/uploads",
    status_code=201,
    response_model=NewUpload,
    responses={
        201: {"headers": {"Location": {"description": "of the new upload", "schema": {"type": "string"}}}},
        **problems(*JSON_BODY, *IDEMPOTENT, ErrorCode.upload_too_large),
    },
)
def create_upload(
    body: UploadCreate,
    request: Request,
    principal: JobsWriter,
    services: InjectedServices,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """Announce a file. PUT it as `put` says, then name the upload's id in a job."""
    limit = services.settings.max_upload_bytes
    if body.bytes is not None and body.bytes > limit:
        raise field_error(ErrorCode.upload_too_large, "bytes", f"At most {limit} bytes are taken.")
    identity = identify(request, body, tenant_id=principal.tenant_id, key=idempotency_key)

    def create(session: Session) -> Created:
        upload_id = new_id(IdPrefix.UPLOAD)
        upload = Upload(
            id=upload_id,
            tenant_id=principal.tenant_id,
            object_key=upload_key(tenant_id=principal.tenant_id, upload_id=upload_id),
            filename=body.filename,
            content_type=body.content_type,
            size_bytes=body.bytes,
        )
        session.add(upload)
        session.flush()
        session.refresh(upload)
        put = services.storage.presign_put(
            upload.object_key,
            content_type=body.content_type,
            size_bytes=body.bytes,
            lifetime=dt.timedelta(seconds=services.settings.upload_url_lifetime_s),
        )
        out = NewUpload(
            id=upload.id,
            filename=upload.filename,
            content_type=upload.content_type,
            bytes=None,
            created_at=upload.created_at,
            put=PutRequest(url=put.url, headers=put.headers, expires_at=put.expires_at),
        )
        return Created(status_code=201, body=out.model_dump(mode="json"), location=f"/v1/uploads/{upload.id}")

    return create_once(services.database, identity, create).response()


@router.get(
    "/v1/uploads/{upload_id}",
    response_model=UploadOut,
    responses=problems(ErrorCode.not_found, ErrorCode.storage_unavailable),
)
def read_upload(upload_id: UploadId, principal: JobsReader, services: InjectedServices) -> UploadOut:
    """An upload, and whether its file has arrived."""
    with services.database.transaction() as session:
        upload = session.scalars(
            select(Upload).where(
                Upload.id == upload_id, Upload.tenant_id == principal.tenant_id, Upload.discarded_at.is_(None)
            )
        ).one_or_none()
    if upload is None:
        raise ApiError(ErrorCode.not_found, f"There is no upload {upload_id}.")
    try:
        stored = services.storage.size_of(upload.object_key)
    except StorageUnavailableError as error:
        raise ApiError(ErrorCode.storage_unavailable, headers={"Retry-After": "5"}) from error
    return UploadOut(
        id=upload.id,
        filename=upload.filename,
        content_type=upload.content_type,
        bytes=stored,
        created_at=upload.created_at,
    )
