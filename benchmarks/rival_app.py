"""What our server is measured against, on the same server: Django as one would first write it.

`RIVAL_FILES` names the directory whose files are served.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

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


urlpatterns = [path("empty", empty), path("file/<str:name>", file)]

if os.environ.get("RIVAL_BARE"):
    settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="x" * 50)
else:
    os.environ["DJANGO_SETTINGS_MODULE"] = "inventory.settings"
    settings.ROOT_URLCONF = __name__
django.setup()
application = WhiteNoise(get_wsgi_application(), root=str(FILES), prefix="white/")
