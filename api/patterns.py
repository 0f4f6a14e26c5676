"""The forms that text takes on the wire, each with what to tell whoever sent another. Knows expressions only."""

_ULID = "[0-9A-HJKMNP-TV-Z]{26}"
_SOME_ULID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"

JOB_ID = rf"^job_{_ULID}$"
BATCH_ID = rf"^bat_{_ULID}$"
UPLOAD_ID = rf"^upl_{_ULID}$"
ENDPOINT_ID = rf"^we_{_ULID}$"
DELIVERY_ID = rf"^dlv_{_ULID}$"
SOURCE = rf"^(upl_{_ULID}|s3://[^\x00-\x20]+|https?://[^\x00-\x20]+)$"
URL = r"^https?://[^\x00-\x20]+$"
FILE_NAME = r"^[^\x00-\x1f/\\]+$"
MEDIA_TYPE = r"^[a-zA-Z0-9.+-]+/[a-zA-Z0-9.+-]+$"
IDEMPOTENCY_KEY = r"^[\x21-\x7e]+$"
NO_NUL = r"^[^\x00]*$"
"""Postgres stores no NUL in text."""

DEMANDS = {
    JOB_ID: f"must be the id of a job, such as job_{_SOME_ULID}",
    BATCH_ID: f"must be the id of a batch, such as bat_{_SOME_ULID}",
    UPLOAD_ID: f"must be the id of an upload, such as upl_{_SOME_ULID}",
    ENDPOINT_ID: f"must be the id of a webhook endpoint, such as we_{_SOME_ULID}",
    DELIVERY_ID: f"must be the id of a delivery, such as dlv_{_SOME_ULID}",
    SOURCE: "must be the id of an upload (upl_…), s3://bucket/key or an https URL",
    URL: "must be an https URL",
    FILE_NAME: "must be the name of a file, without / and \\",
    MEDIA_TYPE: "must be a media type, such as audio/wav",
    IDEMPOTENCY_KEY: "must be of printable ASCII letters, without spaces",
    NO_NUL: "must not hold the character NUL",
}
