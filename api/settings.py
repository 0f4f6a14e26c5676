"""What an operator can set of the API. Knows environment variables (`REALVIDEO_…`), read once at the entry point."""

from pydantic import Field, SecretStr, model_validator

from models.settings import CommonSettings


class ApiSettings(CommonSettings):
    """Limits, defaults of a job, and the address to listen on. The API serves one installation, with its presets."""

    api_host: str = "127.0.0.1"
    api_port: int = Field(default=8000, ge=0, le=65535)

    presets: tuple[str, ...] = Field(
        default=("avatar", "tiny", "14b"),
        min_length=1,
        description="what the workers of this installation render; first: default",
    )
    default_fps: int = Field(default=16, ge=1, le=60)
    default_width: int = Field(default=480, ge=16, multiple_of=16)
    default_height: int = Field(default=640, ge=16, multiple_of=16)
    default_denoising_steps: int = Field(default=2, ge=2, le=4, multiple_of=2)
    default_seed: int = Field(default=0, ge=0)
    default_prompt: str = "A character is talking."

    max_fps: int = Field(default=60, ge=1)
    min_side: int = Field(default=64, ge=16, description="pixels, of width and of height")
    max_side: int = Field(default=1280, ge=16)
    max_pixels: int = Field(default=1280 * 720, description="width × height of one frame")
    max_duration_s: float = Field(default=3600.0, gt=0)

    page_size: int = Field(default=20, ge=1, le=100)
    max_body_bytes: int = Field(default=256 * 1024, ge=1024, description="of a JSON request")
    max_upload_bytes: int = Field(default=2 * 1024**3, ge=1)
    upload_url_lifetime_s: int = Field(default=3600, ge=1, le=7 * 86_400)
    output_url_lifetime_s: int = Field(default=3600, ge=2, le=7 * 86_400)
    output_retention_days: int | None = Field(
        default=None, ge=1, description="the bucket's lifecycle rule for outputs, told to clients as expires_at"
    )

    session_secret: SecretStr | None = Field(
        default=None, min_length=16, description="signs the dashboard's cookies; unset: one is drawn at each start"
    )
    session_lifetime_s: int = Field(default=12 * 3600, ge=60)
    shutdown_timeout_s: int = Field(default=8, ge=1)
    log_format: str = Field(default="json", pattern="^(json|console)$")

    @model_validator(mode="after")
    def _defaults_are_allowed(self) -> "ApiSettings":
        sides = (self.default_width, self.default_height)
        if not all(self.min_side <= side <= self.max_side for side in sides):
            raise ValueError(f"the default size {sides} is not between {self.min_side} and {self.max_side}")
        if self.default_width * self.default_height > self.max_pixels:
            raise ValueError(f"the default size {sides} has more than {self.max_pixels} pixels")
        if self.default_fps > self.max_fps:
            raise ValueError(f"the default of {self.default_fps} frames/s is above the limit of {self.max_fps}")
        return self

    @model_validator(mode="after")
    def _tenants_stay_apart(self) -> "ApiSettings":
        if self.s3_bucket is not None and self.s3_bucket in self.s3_allowed_input_buckets:
            raise ValueError(f"{self.s3_bucket} holds every tenant's objects and cannot be a bucket of inputs")
        return self

    @property
    def default_preset(self) -> str:
        return self.presets[0]
