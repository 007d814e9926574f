"""Settings, from the environment alone: a table of every variable, then what is made of them.

`docs/reference/settings.md` is made of the table (`python -m tests.settings_page`). Raises
EnvironmentFault, which names each variable that is missing or wrong.
"""

import ipaddress
import os
import ssl
from dataclasses import replace
from datetime import timedelta
from itertools import permutations
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dj_database_url
from django.utils.crypto import salted_hmac
from psycopg import IsolationLevel

from accounts import rates
from cas.conf import (
    BOOLEAN,
    DIRECTORY,
    HOW_TO_MAKE_A_KEY,
    ORIGINS,
    SERVING,
    TEXT,
    URL,
    Kind,
    Setting,
    choice,
    contradictions,
    from_values,
    integer,
    is_guessable,
    list_of,
)
from inventory.environment import MINIMUM_KEY_LENGTH, Environment, kept_key
from inventory.log import logging_settings

BASE_DIR = Path(__file__).resolve().parent.parent
MEBIBYTE = 1024 * 1024


def _address(text: str) -> str:
    found = ipaddress.ip_address("127.0.0.1" if text == "localhost" else text.strip("[]"))
    return str(getattr(found, "ipv4_mapped", None) or found)


def _database(url: str) -> dict[str, Any]:
    """What a database URL says, with its scheme as SCHEME. Raises ValueError."""
    found: dict[str, Any] = {**dj_database_url.parse(url), "SCHEME": urlsplit(url).scheme}
    known = found["SCHEME"] in ("postgres", "postgresql", "sqlite")
    if not known or found.get("NAME") in ("", ":memory:", None):
        raise ValueError("not a database that is supported")
    return found


ADDRESS = Kind("an IP address such as 127.0.0.1 or ::1", _address)
DATABASE = Kind(
    "postgresql://USER:PASSWORD@HOST:PORT/NAME, with reserved characters percent-encoded and "
    "PostgreSQL's own options after a ?, or sqlite:////PATH",
    _database,
    refused="is not the URL of a database",
)
HOSTS = list_of(
    # With *, any web page could reach the API under a name of its own.
    Kind("", allows=lambda host: host != "*"),
    "host names that clients use, without *",
)
NETWORKS = list_of(Kind("", ipaddress.ip_network), "addresses or networks such as 10.1.2.0/24")
CERTIFICATES = Kind("the path of a PEM file with the certificates of the authorities to trust")
RATE = Kind("a number and a period, such as 30/minute, or none", rates.parse)
SECRET = Kind(
    f"at least {MINIMUM_KEY_LENGTH} random characters, as {HOW_TO_MAKE_A_KEY} makes them",
    allows=lambda key: not is_guessable(key, MINIMUM_KEY_LENGTH),
    refused="is easily guessed",
)

SECTIONS: dict[str, tuple[Setting, ...]] = {
    "Installation": (
        Setting("INVENTORY_ENV", choice("development", "production"), "development",
            "`production` refuses a missing or weak `SECRET_KEY` and debugging, makes cookies "
            "secure, and `make run` then neither makes an account nor loads the sample collection"),
        Setting("INVENTORY_DATA_DIR", DIRECTORY, Path("data"),
            "the folder for everything that is written; a relative path is below the project's "
            "folder; created if missing"),
        Setting("SECRET_KEY", SECRET, "",
            "signs sessions", "made and kept in the data folder (development only)"),
        Setting("DATABASE_URL", DATABASE, None, "the database", "SQLite in the data folder"),
        Setting("INVENTORY_DEBUG", BOOLEAN, False,
            "Django's error pages, which show secrets; refused in production"),
        Setting("INVENTORY_LOG_LEVEL", choice("DEBUG", "INFO", "WARNING", "ERROR"), "INFO",
            "the log goes to standard error, one line for each event"),
        Setting("INVENTORY_LOG_FORMAT", choice("text", "json"), "text",
            "what a line of the log is; within a request it has the request's id"),
        Setting("INVENTORY_LOG_BLOBS", BOOLEAN, True,
            "a line for each blob and thumbnail that is served"),
    ),
    "Server": (
        Setting("PORT", integer(1, 65535), 8000, "the port to listen on"),
        Setting("INVENTORY_BIND", ADDRESS, "127.0.0.1",
            "the address to listen on; any other than a loopback address needs accounts"),
        Setting("INVENTORY_WORKERS", integer(1, 256), min(os.cpu_count() or 1, 8),
            "worker processes", "one for each processor, at most 8"),
        Setting("INVENTORY_THREADS", integer(1, 512), 16,
            "requests that each worker answers at a time. At most half of them wait for readers of "
            "large blobs, and one less for bodies that arrive slowly; more are answered 503"),
        Setting("INVENTORY_ALLOWED_HOSTS", HOSTS, [],
            "accepted beside `localhost`, `127.0.0.1` and `[::1]`"),
        Setting("INVENTORY_TRUSTED_ORIGINS", ORIGINS, [],
            "web sites whose pages may write to the API and the admin"),
        Setting("INVENTORY_TRUSTED_PROXIES", NETWORKS, [],
            "proxies in front, whose `X-Forwarded-For` tells the client's address and whose "
            "`X-Request-ID` is taken over; nobody else's header counts"),
        Setting("INVENTORY_BEHIND_TLS_PROXY", BOOLEAN, False,
            "trust `X-Forwarded-Proto: https`; only if every request comes through a proxy that "
            "sets or removes that header"),
        Setting("INVENTORY_SECURE_COOKIES", BOOLEAN, False,
            "send the admin's cookies over https only", "`true` in production"),
        Setting("INVENTORY_METRICS_ALLOWED", NETWORKS, [],
            "may read `/metrics` beside this machine, by the peer's own address; a request that "
            "names a proxy (`X-Forwarded-For`, `Forwarded`, `X-Real-IP`, `Via`) is always refused"),
    ),
    "Accounts": (
        Setting("INVENTORY_AUTH", choice("open", "accounts"), "open",
            "who may use the API: `open`, whoever is on this machine, without an account; "
            "`accounts`, those who have one, as their role allows",
            "`open` in development on a loopback address, else `accounts`"),
        Setting("INVENTORY_LOGIN_RATE", RATE, rates.Rate(30, 60),
            "logins that are looked at from one address; more are answered 429", "30/minute"),
        Setting("INVENTORY_UPLOAD_RATE", RATE, rates.Rate(600, 60),
            "requests of one account that may attach something, the form of a part in the admin "
            "included; more are answered 429", "600/minute"),
    ),
    "Blobs": (
        Setting("CAS_S3_BUCKET", TEXT, "",
            "keep blobs in this bucket, not in `attachments/` in the data folder"),
        Setting("CAS_S3_ENDPOINT_URL", URL, "", "the address of another S3 service", "Amazon's"),
        Setting("CAS_S3_REGION", TEXT, "", "the region", "boto3's"),
        Setting("CAS_S3_ACCESS_KEY_ID", TEXT, "", "both credentials or neither", "boto3's"),
        Setting("CAS_S3_SECRET_ACCESS_KEY", TEXT, "", "both credentials or neither", "boto3's"),
        Setting("CAS_S3_CA_BUNDLE", CERTIFICATES, "",
            "the authorities that may sign the certificate of an `https` endpoint, for one of your "
            "own; nginx has a variable of the same name", "the system's and boto3's"),
        Setting("CAS_S3_ADDRESSING_STYLE", choice("auto", "path", "virtual"), "auto",
            "`path` for services whose buckets have no host names of their own"),
        Setting("CAS_STAGING_DIR", DIRECTORY, Path("staging"),
            "where uploads wait on their way to a bucket; as large as all uploads at one time",
            "`staging` in the data folder"),
        Setting("CAS_STATE_DIR", DIRECTORY, Path("state"),
            "what was found out about a store, so that it need not be found out again",
            "`state` in the data folder"),
        Setting("CAS_MIGRATION_DELETE_OLD_OBJECTS", BOOLEAN, False,
            "lets `cleanup_legacy_blobs` delete"),
        Setting("INVENTORY_MAX_UPLOAD_BYTES", integer(1), 256 * MEBIBYTE,
            "the largest file that may be uploaded (256 MiB); larger ones are answered 413"),
        Setting("INVENTORY_MAX_IMAGE_BYTES", integer(1), 64 * MEBIBYTE, "of an image (64 MiB)"),
        Setting("INVENTORY_MAX_PDF_BYTES", integer(1), 256 * MEBIBYTE, "of a PDF (256 MiB)"),
    ),
    "Serving blobs": tuple(
        replace(row, shown="`thumbnails` in the data folder")
        if row.name == "CAS_THUMBNAIL_CACHE_DIR"
        else row
        for row in SERVING
    ),
}  # fmt: skip

# Reading

_environment = Environment(os.environ, BASE_DIR)
_table = {setting.name: setting for section in SECTIONS.values() for setting in section}


def _read(name: str, default: Any = None) -> Any:
    return _environment.read(_table[name], default)


INVENTORY_ENV: str = _read("INVENTORY_ENV")
PRODUCTION = INVENTORY_ENV == "production"
DATA_DIR: Path = _read("INVENTORY_DATA_DIR")

# Secrets and debugging

DEBUG: bool = _read("INVENTORY_DEBUG")
if DEBUG and PRODUCTION:
    _environment.fault("INVENTORY_DEBUG", "is on in production, where it shows secrets. Remove it.")
SECRET_KEY: str = _read("SECRET_KEY")
if PRODUCTION and "SECRET_KEY" not in _environment:
    _environment.fault("SECRET_KEY", f"is missing. Make one with: {HOW_TO_MAKE_A_KEY}")
elif not SECRET_KEY:
    try:
        SECRET_KEY = kept_key(DATA_DIR / "secret-key")
    except OSError as _error:
        _environment.fault_of_directory("INVENTORY_DATA_DIR", DATA_DIR, _error)

# Who may connect

INVENTORY_BIND: str = _read("INVENTORY_BIND")
INVENTORY_PORT: int = _read("PORT")
INVENTORY_WORKERS: int = _read("INVENTORY_WORKERS")
INVENTORY_THREADS: int = _read("INVENTORY_THREADS")
_is_local = ipaddress.ip_address(INVENTORY_BIND).is_loopback
INVENTORY_AUTH: str = _read(
    "INVENTORY_AUTH", "open" if _is_local and not PRODUCTION else "accounts"
)
if INVENTORY_AUTH == "open" and not _is_local:
    _environment.fault(
        "INVENTORY_AUTH",
        f"is open, and INVENTORY_BIND is {INVENTORY_BIND}: whoever can connect could read and "
        "write everything. Write accounts, or listen on 127.0.0.1.",
    )
INVENTORY_LOGIN_RATE: rates.Rate | None = _read("INVENTORY_LOGIN_RATE")
INVENTORY_UPLOAD_RATE: rates.Rate | None = _read("INVENTORY_UPLOAD_RATE")
INVENTORY_TRUSTED_ORIGINS: list[str] = _read("INVENTORY_TRUSTED_ORIGINS")
INVENTORY_METRICS_ALLOWED: list[Any] = _read("INVENTORY_METRICS_ALLOWED")
INVENTORY_TRUSTED_PROXIES: list[Any] = _read("INVENTORY_TRUSTED_PROXIES")
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]", *_read("INVENTORY_ALLOWED_HOSTS")]
CSRF_TRUSTED_ORIGINS = INVENTORY_TRUSTED_ORIGINS
if _read("INVENTORY_BEHIND_TLS_PROXY"):
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = _read("INVENTORY_SECURE_COOKIES", PRODUCTION)

# The database

_url = _read("DATABASE_URL") or {"SCHEME": "sqlite", "NAME": DATA_DIR / "inventory.sqlite3"}
if _url.pop("SCHEME") == "sqlite":
    _path = Path(_url["NAME"])
    _url = {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(_path),
        "OPTIONS": {
            # Seconds that a writer waits for another one.
            "timeout": 20,
            # A transaction that begins by reading cannot wait for the write lock later.
            "transaction_mode": "IMMEDIATE",
            # WAL lets readers go on while somebody writes. FULL, because with NORMAL a power cut
            # may take back a committed row that says where a blob is, after its old object was
            # deleted.
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL",
        },
        # A file: a database in memory would be another one for every thread.
        "TEST": {"NAME": str(_path.with_name(f"test-{_path.name}"))},
    }
else:
    _url |= {
        # Seconds that a connection is kept for the next request of its thread.
        "CONN_MAX_AGE": 60,
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": {
            # Seconds: a database that is down must not delay every request for minutes.
            "connect_timeout": 5,
            **_url.get("OPTIONS", {}),
            # Code that waited for a lock must see what was committed meanwhile, whatever the
            # server's default is.
            "isolation_level": IsolationLevel.READ_COMMITTED,
        },
    }
DATABASES = {"default": _url}

# The blob store: a bucket if one is named, else a folder

_S3_OPTIONS = {
    "CAS_S3_BUCKET": "bucket_name",
    "CAS_S3_ENDPOINT_URL": "endpoint_url",
    "CAS_S3_REGION": "region_name",
    "CAS_S3_ACCESS_KEY_ID": "access_key",
    "CAS_S3_SECRET_ACCESS_KEY": "secret_key",
    "CAS_S3_CA_BUNDLE": "verify",
    "CAS_S3_ADDRESSING_STYLE": "addressing_style",
}
_s3 = {option: value for name, option in _S3_OPTIONS.items() if (value := _read(name))}
_store: dict[str, Any] = {"BACKEND": "cas.storage.s3.S3BlobStorage", "OPTIONS": _s3}
if "CAS_S3_BUCKET" not in _environment:
    _folder = {"location": str(DATA_DIR / "attachments")}
    _store = {"BACKEND": "cas.storage.disk.DiskBlobStorage", "OPTIONS": _folder}
    # Blobs must not go to disk because the one variable that says otherwise was forgotten.
    if _others := [name for name in _S3_OPTIONS if name in _environment]:
        _environment.fault(
            "CAS_S3_BUCKET",
            f"is missing, but {_others[0]} is set. Write the bucket's name, or remove the other "
            "CAS_S3_ variables to keep blobs on disk.",
        )
if _bundle := _s3.get("verify"):
    try:
        ssl.create_default_context(cafile=_bundle)
    except OSError as _error:
        # An SSLError is one as well.
        _no_pem = isinstance(_error, ssl.SSLError)
        _why = "has no certificate in PEM" if _no_pem else f"cannot be read ({_error.strerror})"
        _problem = f"is {_bundle!r}, which {_why}. Write {CERTIFICATES.expected}."
        _environment.fault("CAS_S3_CA_BUNDLE", _problem)
# Both credentials or neither: boto3 looks for them where it usually does.
for _name, _other in permutations(("CAS_S3_ACCESS_KEY_ID", "CAS_S3_SECRET_ACCESS_KEY")):
    if _other in _environment and _name not in _environment:
        _environment.fault(_name, f"is missing. Write the one that belongs to {_other}.")
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
    "attachments": _store,
}
CAS_STAGING_DIR: Path = _read("CAS_STAGING_DIR", DATA_DIR / "staging")
CAS_STATE_DIR: Path = _read("CAS_STATE_DIR", DATA_DIR / "state")
CAS_MIGRATION_DELETE_OLD_OBJECTS: bool = _read("CAS_MIGRATION_DELETE_OLD_OBJECTS")

# Uploads and serving: `cas.conf` has the settings of the latter

INVENTORY_MAX_UPLOAD_BYTES: int = _read("INVENTORY_MAX_UPLOAD_BYTES")
INVENTORY_MAX_IMAGE_BYTES: int = _read("INVENTORY_MAX_IMAGE_BYTES")
INVENTORY_MAX_PDF_BYTES: int = _read("INVENTORY_MAX_PDF_BYTES")
FILE_UPLOAD_HANDLERS = ["attachments.uploads.HashingUploadHandler"]
_own_defaults: dict[str, Any] = {"CAS_THUMBNAIL_CACHE_DIR": DATA_DIR / "thumbnails"}
if INVENTORY_AUTH == "accounts":
    # Blobs are served without asking the database who asks: what gives access is the URL.
    _own_defaults["CAS_SIGNED_URLS"] = True
    _derived = salted_hmac("inventory.settings", "CAS_URL_SIGNING_KEYS", SECRET_KEY)
    _own_defaults["CAS_URL_SIGNING_KEYS"] = (_derived.hexdigest(),)
_serving = {row.name: _read(row.name, _own_defaults.get(row.name)) for row in SERVING}
for _, _name, _problem in contradictions(from_values(_serving)):
    _environment.fault(_name, _problem)
globals().update(_serving)

LOGGING = logging_settings(
    _read("INVENTORY_LOG_LEVEL"),
    form=_read("INVENTORY_LOG_FORMAT"),
    blobs=_read("INVENTORY_LOG_BLOBS"),
)

_environment.check()

# From here on nothing depends on the environment.

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_prometheus",
    "rest_framework",
    "cas",
    "knox",
    "axes",
    "attachments",
    "parts",
    # Behind the others, whose permissions its roles have.
    "accounts",
]
MIDDLEWARE = [
    "inventory.middleware.RequestIdMiddleware",
    "inventory.middleware.ClientAddressMiddleware",
    "inventory.middleware.SlowClientMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "inventory.middleware.NulCharacterMiddleware",
    "inventory.middleware.BodyMiddleware",
    "inventory.middleware.LoopbackOnlyMiddleware",
    "inventory.middleware.ForeignOriginMiddleware",
    "inventory.middleware.BlobMiddleware",
    "inventory.middleware.AdminPolicyMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "inventory.middleware.UploadRateMiddleware",
    "axes.middleware.AxesMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "inventory.urls"
WSGI_APPLICATION = "inventory.wsgi.application"
CSRF_FAILURE_VIEW = "inventory.errors.csrf_failure"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
REST_FRAMEWORK = {
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": [
        "inventory.parsers.BoundedJSONParser",
        "attachments.uploads.StrictMultiPartParser",
    ],
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "accounts.authentication.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["accounts.permissions.ModelPermissions"],
    "DEFAULT_THROTTLE_CLASSES": ["accounts.throttles.UploadThrottle"],
    "UNAUTHENTICATED_USER": None,
    "URL_FORMAT_OVERRIDE": None,
    "EXCEPTION_HANDLER": "inventory.errors.exception_handler",
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}
# Its one model is replaced by ours; its migrations would make the table all the same.
MIGRATION_MODULES = {"knox": None}
KNOX_TOKEN_MODEL = "accounts.Token"  # noqa: S105
AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesStandaloneBackend",
    "django.contrib.auth.backends.ModelBackend",
]
AXES_FAILURE_LIMIT = 5
AXES_COOLOFF_TIME = timedelta(minutes=15)
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_RESET_ON_SUCCESS = True
AXES_DISABLE_ACCESS_LOG = True
AXES_LOCKOUT_CALLABLE = "accounts.login.locked_out"
# `inventory.middleware.ClientAddressMiddleware` has looked at what proxies say.
AXES_CLIENT_IP_CALLABLE = "accounts.throttles.address_of"
AXES_VERBOSE = False
STATIC_URL = "static/"
# The admin's files are served from where their packages keep them; there is nothing to collect.
WHITENOISE_USE_FINDERS = True
# A page of a thousand attachments has five fields for each, a list to choose rows from one each.
# How much text they are is bounded by Django's DATA_UPLOAD_MAX_MEMORY_SIZE.
DATA_UPLOAD_MAX_NUMBER_FIELDS = 20_000
SESSION_COOKIE_HTTPONLY = True
X_FRAME_OPTIONS = "DENY"
SECURE_REFERRER_POLICY = "same-origin"
APPEND_SLASH = False
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en-gb"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
