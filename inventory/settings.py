"""Settings, from the environment alone. `docs/reference/settings.md` lists every variable.

Raises EnvironmentFault, which names each variable that is missing or wrong.
"""

import os
from pathlib import Path

from inventory.databases import database
from inventory.environment import Environment
from inventory.log import logging_settings
from inventory.secret import HOW_TO_MAKE, MINIMUM_LENGTH, is_weak, kept_key
from inventory.stores import storages

MEBIBYTE = 1024 * 1024
MANY = 2**62
"""An upper bound for numbers of bytes that is no limit in practice."""

BASE_DIR = Path(__file__).resolve().parent.parent
_environment = Environment(os.environ)

INVENTORY_ENV = _environment.choice("INVENTORY_ENV", ("development", "production"), "development")
PRODUCTION = INVENTORY_ENV == "production"
DATA_DIR = _environment.directory("INVENTORY_DATA_DIR", BASE_DIR / "data", BASE_DIR)

# Secrets and debugging

DEBUG = _environment.boolean("INVENTORY_DEBUG", False)
if DEBUG and PRODUCTION:
    _environment.fault("INVENTORY_DEBUG", "is on in production, where it shows secrets. Remove it.")

SECRET_KEY = _environment.text("SECRET_KEY")
if PRODUCTION and not SECRET_KEY:
    _environment.fault("SECRET_KEY", f"is missing. Make one with: {HOW_TO_MAKE}")
elif SECRET_KEY and is_weak(SECRET_KEY):
    _environment.fault(
        "SECRET_KEY",
        f"is easily guessed: it has fewer than {MINIMUM_LENGTH} characters, few different ones, "
        f"or is a placeholder. Make one with: {HOW_TO_MAKE}",
    )
elif not SECRET_KEY:
    try:
        SECRET_KEY = kept_key(DATA_DIR / "secret-key")
    except OSError as _error:
        _environment.fault(
            "INVENTORY_DATA_DIR",
            f"is {str(DATA_DIR)!r}, where the secret key cannot be kept ({_error.strerror}). "
            "Write the path of a directory that this user may write to.",
        )

# Who may talk to us

INVENTORY_BIND = _environment.address("INVENTORY_BIND", "127.0.0.1")
INVENTORY_PORT = _environment.integer("PORT", 8000, minimum=1, maximum=65535)
INVENTORY_WORKERS = _environment.integer(
    "INVENTORY_WORKERS", min(os.cpu_count() or 1, 8), minimum=1, maximum=256
)
INVENTORY_THREADS = _environment.integer("INVENTORY_THREADS", 16, minimum=1, maximum=512)
INVENTORY_ALLOW_OPEN_API = _environment.boolean("INVENTORY_ALLOW_OPEN_API", False)
INVENTORY_TRUSTED_ORIGINS = _environment.origins("INVENTORY_TRUSTED_ORIGINS")
INVENTORY_METRICS_ALLOWED = _environment.networks("INVENTORY_METRICS_ALLOWED")
ALLOWED_HOSTS = [
    "localhost",
    "127.0.0.1",
    "[::1]",
    *_environment.items("INVENTORY_ALLOWED_HOSTS"),
]
if "*" in ALLOWED_HOSTS:
    _environment.fault(
        "INVENTORY_ALLOWED_HOSTS",
        "has the entry '*', with which any web page could reach the API under a name of its own. "
        "Write the host names that clients use, separated by commas.",
    )
CSRF_TRUSTED_ORIGINS = INVENTORY_TRUSTED_ORIGINS
if _environment.boolean("INVENTORY_BEHIND_TLS_PROXY", False):
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
_SECURE_COOKIES = _environment.boolean("INVENTORY_SECURE_COOKIES", PRODUCTION)
SESSION_COOKIE_SECURE = _SECURE_COOKIES
CSRF_COOKIE_SECURE = _SECURE_COOKIES

# Where everything is kept

DATABASES = {"default": database(_environment, DATA_DIR)}
STORAGES = storages(_environment, DATA_DIR)
LOGGING = logging_settings(
    _environment.choice("INVENTORY_LOG_LEVEL", ("DEBUG", "INFO", "WARNING", "ERROR"), "INFO")
)

# Uploads

INVENTORY_MAX_UPLOAD_BYTES = _environment.integer(
    "INVENTORY_MAX_UPLOAD_BYTES", 256 * MEBIBYTE, minimum=1, maximum=MANY
)
INVENTORY_MAX_IMAGE_BYTES = _environment.integer(
    "INVENTORY_MAX_IMAGE_BYTES", 64 * MEBIBYTE, minimum=1, maximum=MANY
)
INVENTORY_MAX_PDF_BYTES = _environment.integer(
    "INVENTORY_MAX_PDF_BYTES", 256 * MEBIBYTE, minimum=1, maximum=MANY
)
FILE_UPLOAD_HANDLERS = ["attachments.uploads.HashingUploadHandler"]

# Serving and keeping blobs: `cas.conf` says what each of these does

CAS_PUBLIC_BASE_URL = _environment.url("CAS_PUBLIC_BASE_URL")
CAS_SIGNED_URLS = _environment.boolean("CAS_SIGNED_URLS", False)
CAS_URL_SIGNING_KEYS = _environment.items("CAS_URL_SIGNING_KEYS")
if CAS_SIGNED_URLS and not CAS_URL_SIGNING_KEYS:
    _environment.fault(
        "CAS_URL_SIGNING_KEYS",
        f"is missing, and CAS_SIGNED_URLS is on. Make a key with: {HOW_TO_MAKE}",
    )
CAS_CORS_ALLOWED_ORIGINS = _environment.origins("CAS_CORS_ALLOWED_ORIGINS", any_allowed=True)
CAS_DELIVERY = _environment.choice("CAS_DELIVERY", ("stream", "accel", "redirect"), "stream")
CAS_ACCEL_PREFIX = _environment.text("CAS_ACCEL_PREFIX", "/_cas")
CAS_REDIRECT_TTL = _environment.integer("CAS_REDIRECT_TTL", 300, minimum=10, maximum=604_800)
CAS_RETRY_AFTER = _environment.integer("CAS_RETRY_AFTER", 5, minimum=1, maximum=3600)
CAS_THUMBNAIL_SIZES = _environment.integers("CAS_THUMBNAIL_SIZES", minimum=1, maximum=1024)
CAS_THUMBNAIL_CACHE_DIR = _environment.directory(
    "CAS_THUMBNAIL_CACHE_DIR", DATA_DIR / "thumbnails", BASE_DIR
)
CAS_THUMBNAIL_CACHE_BYTES = _environment.integer(
    "CAS_THUMBNAIL_CACHE_BYTES", 1024 * MEBIBYTE, minimum=1, maximum=MANY
)
CAS_THUMBNAIL_MAX_PIXELS = _environment.integer(
    "CAS_THUMBNAIL_MAX_PIXELS", 50_000_000, minimum=1, maximum=1_000_000_000
)
CAS_THUMBNAIL_CONCURRENCY = _environment.integer(
    "CAS_THUMBNAIL_CONCURRENCY", 2, minimum=1, maximum=256
)
CAS_THUMBNAIL_WAIT = _environment.integer("CAS_THUMBNAIL_WAIT", 20, minimum=1, maximum=600)
CAS_STAGING_DIR = _environment.directory("CAS_STAGING_DIR", DATA_DIR / "staging", BASE_DIR)
CAS_STATE_DIR = _environment.directory("CAS_STATE_DIR", DATA_DIR / "state", BASE_DIR)
CAS_MIGRATION_DELETE_OLD_OBJECTS = _environment.boolean("CAS_MIGRATION_DELETE_OLD_OBJECTS", False)

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
    "attachments",
    "parts",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "inventory.wellformed.RefuseNul",
    "inventory.open_api.RefuseOtherMachines",
    "inventory.origin.RefuseForeignOrigin",
    "inventory.shortcut.ServeBlobs",
    "inventory.admin_policy.RestrictAdmin",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "inventory.urls"
WSGI_APPLICATION = "inventory.wsgi.application"
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
        "rest_framework.parsers.MultiPartParser",
    ],
    "DEFAULT_AUTHENTICATION_CLASSES": [],
    "DEFAULT_PERMISSION_CLASSES": [],
    "UNAUTHENTICATED_USER": None,
    "URL_FORMAT_OVERRIDE": None,
    "EXCEPTION_HANDLER": "inventory.errors.exception_handler",
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}
STATIC_URL = "static/"
# The admin's files are served from where their packages keep them; there is nothing to collect.
WHITENOISE_USE_FINDERS = True
SESSION_COOKIE_HTTPONLY = True
X_FRAME_OPTIONS = "DENY"
SECURE_REFERRER_POLICY = "same-origin"
APPEND_SLASH = False
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en-gb"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
