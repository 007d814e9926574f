"""What our server is measured against, on the same server: Django as one would first write it.

`RIVAL_FILES` names the directory whose files are served, `RIVAL_S3` has the options of the storage
from which they are served as well.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any, Final

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import FileResponse, HttpRequest, HttpResponse
from django.urls import path
from whitenoise import WhiteNoise

FILES: Final = Path(os.environ["RIVAL_FILES"])


def empty(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


def file(request: HttpRequest, name: str) -> FileResponse:
    return FileResponse((FILES / name).open("rb"), content_type="image/png")


@cache
def storage() -> Any:
    from storages.backends.s3 import S3Storage

    return S3Storage(**json.loads(os.environ["RIVAL_S3"]))


def s3(request: HttpRequest, key: str) -> FileResponse:
    return FileResponse(storage().open(key), content_type="image/png")


urlpatterns = [
    path("empty", empty),
    path("file/<str:name>", file),
    path("s3/<path:key>", s3),
]

if os.environ.get("RIVAL_BARE"):
    settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="x" * 50)
else:
    os.environ["DJANGO_SETTINGS_MODULE"] = "inventory.settings"
    settings.ROOT_URLCONF = __name__
django.setup()
application = WhiteNoise(get_wsgi_application(), root=str(FILES), prefix="white/")
