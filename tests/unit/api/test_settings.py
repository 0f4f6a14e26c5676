"""Settings that would make the API unsafe, or refuse its own defaults, stop it at the start."""

import pytest
from pydantic import ValidationError

from api.settings import ApiSettings

BASE = {
    "database_url": "postgresql://h/d",
    "broker_url": "redis://h/0",
    "storage_directory": "/objects",
    "storage_secret": "0123456789abcdef",
}


def test_the_environment_is_read_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "DATABASE_URL": "postgresql://h/d",
        "BROKER_URL": "redis://h/0",
        "REALVIDEO_STORAGE_DIRECTORY": "/objects",
        "REALVIDEO_STORAGE_SECRET": "0123456789abcdef",
        "REALVIDEO_PRESETS": '["14b", "tiny"]',
        "REALVIDEO_API_PORT": "9000",
        "REALVIDEO_DEFAULT_DENOISING_STEPS": "4",
    }.items():
        monkeypatch.setenv(name, value)

    settings = ApiSettings()

    assert (settings.default_preset, settings.api_port, settings.default_denoising_steps) == ("14b", 9000, 4)


@pytest.mark.parametrize(
    "change",
    [
        {"default_width": 488},
        {"default_width": 1296},
        {"default_width": 1280, "default_height": 1280},
        {"default_fps": 60, "max_fps": 30},
        {"default_denoising_steps": 3},
        {"presets": []},
        {"session_secret": ""},
        {"session_secret": "short"},
        {"storage_secret": None},
        {"log_format": "xml"},
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ApiSettings.model_validate({**BASE, **change})


def test_the_bucket_of_all_tenants_is_no_bucket_of_inputs() -> None:
    bucket = {"storage_directory": None, "storage_secret": None, "s3_bucket": "videos"}

    assert ApiSettings.model_validate({**BASE, **bucket, "s3_allowed_input_buckets": ["inputs"]}).s3_bucket == "videos"
    with pytest.raises(ValidationError, match="every tenant"):
        ApiSettings.model_validate({**BASE, **bucket, "s3_allowed_input_buckets": ["inputs", "videos"]})
