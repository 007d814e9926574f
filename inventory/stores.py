"""Django's `STORAGES`: blobs in an S3 bucket if one is named, else on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inventory.environment import Environment

DISK = "cas.storage.disk.DiskBlobStorage"
S3 = "cas.storage.s3.S3BlobStorage"

_OPTIONS = {
    "CAS_S3_REGION": "region_name",
    "CAS_S3_ACCESS_KEY_ID": "access_key",
    "CAS_S3_SECRET_ACCESS_KEY": "secret_key",
}


def storages(environment: Environment, data_dir: Path) -> dict[str, Any]:
    """The whole `STORAGES` setting."""
    return {
        "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
        "attachments": _attachments(environment, data_dir),
    }


def _attachments(environment: Environment, data_dir: Path) -> dict[str, Any]:
    bucket = environment.text("CAS_S3_BUCKET")
    endpoint = environment.url("CAS_S3_ENDPOINT_URL")
    style = environment.choice("CAS_S3_ADDRESSING_STYLE", ("auto", "path", "virtual"), "auto")
    bundle = environment.certificates("CAS_S3_CA_BUNDLE")
    given = {option: environment.text(name) for name, option in _OPTIONS.items()}
    _check_credentials(environment)
    if not bucket:
        _check_nothing_else(environment)
        return {"BACKEND": DISK, "OPTIONS": {"location": str(data_dir / "attachments")}}
    options: dict[str, Any] = {"bucket_name": bucket, "addressing_style": style}
    if endpoint:
        options["endpoint_url"] = endpoint
    if bundle:
        options["verify"] = bundle
    options |= {option: value for option, value in given.items() if value}
    return {"BACKEND": S3, "OPTIONS": options}


def _check_credentials(environment: Environment) -> None:
    """Both or neither; with neither, boto3 finds them where it usually does."""
    names = ("CAS_S3_ACCESS_KEY_ID", "CAS_S3_SECRET_ACCESS_KEY")
    for name, other in (names, names[::-1]):
        if environment.is_set(other) and not environment.is_set(name):
            environment.fault(name, f"is missing. Write the one that belongs to {other}.")


def _check_nothing_else(environment: Environment) -> None:
    """Blobs must not land on disk because the one variable that says otherwise was forgotten."""
    others = (
        "CAS_S3_ENDPOINT_URL",
        "CAS_S3_ADDRESSING_STYLE",
        "CAS_S3_CA_BUNDLE",
        *_OPTIONS,
    )
    if forgotten := [name for name in others if environment.is_set(name)]:
        environment.fault(
            "CAS_S3_BUCKET",
            f"is missing, but {forgotten[0]} is set. Write the bucket's name, or remove the "
            "other CAS_S3_ variables to keep blobs on disk.",
        )
