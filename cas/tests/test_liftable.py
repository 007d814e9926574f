"""The app by itself, in another Django project: nothing of Inventory's is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

PROJECT = """
import json, sys
from pathlib import Path

import django
from django.conf import settings
from django.core.management import call_command
from django.http import HttpResponse
from django.urls import include, path

HERE = Path(__file__).parent
settings.configure(
    SECRET_KEY="x" * 60,
    ALLOWED_HOSTS=["testserver"],
    ROOT_URLCONF="project",
    INSTALLED_APPS=["cas"],
    STORAGES={
        "attachments": {
            "BACKEND": "cas.storage.disk.DiskBlobStorage",
            "OPTIONS": {"location": str(HERE / "blobs")},
        }
    },
    CAS_THUMBNAIL_CACHE_DIR=HERE / "thumbnails",
)
urlpatterns = [path("files/v1/", include("cas.urls"))]


def main():
    django.setup()
    call_command("check")
    from django.test import Client

    from cas.digest import Hasher
    from cas.signed_urls import blob_url, thumbnail_url
    from cas.storage import attachment_store
    from cas.storage.base import Staged

    data = Path(sys.argv[1]).read_bytes()
    store, hasher = attachment_store(), Hasher()
    hasher.update(data)
    staged = store.staging_dir / "upload"
    staged.write_bytes(data)
    store.create(Staged(staged, hasher.digest, hasher.md5, hasher.size))
    staged.unlink(missing_ok=True)

    digest, client = hasher.digest, Client()
    url = blob_url(digest, content_type="image/jpeg", disposition="inline", filename="a.jpg")
    whole, part = client.get(url), client.get(url, headers={"Range": "bytes=2-5"})
    picture = client.get(thumbnail_url(digest, 32))
    found = {
        "url": url.partition("?")[0],
        "whole": whole.getvalue() == data,
        "part": [part.status_code, part.getvalue() == data[2:6]],
        "picture": [picture.status_code, picture.getvalue()[:2].hex()],
        "listed": [stat.key for stat in store.scan("cas/")],
    }
    store.remove(digest.key)
    found["left"] = [stat.key for stat in store.scan("cas/")]
    found["after"] = client.get(url).status_code
    ours = ("inventory", "accounts", "parts", "attachments")
    found["imported"] = [name for name in sys.modules if name.partition(".")[0] in ours]
    found["models"] = "django.db.backends.sqlite3" in sys.modules
    print(json.dumps(found))


if __name__ == "__main__":
    sys.modules["project"] = sys.modules["__main__"]
    main()
"""


def test_another_project_needs_the_app_alone(tmp_path: Path) -> None:
    from cas.digest import Digest
    from cas.tests.pictures import jpeg

    # A link to the app and nothing else of this repository is importable.
    (tmp_path / "cas").symlink_to(ROOT / "cas")
    (tmp_path / "project.py").write_text(PROJECT)
    data = jpeg(90, 60)
    (tmp_path / "photo").write_bytes(data)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DJANGO_", "PYTHONPATH"))}
    done = subprocess.run(
        [sys.executable, "project.py", "photo"],
        cwd=tmp_path,
        env=kept,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    digest = Digest.of(data)
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "url": f"/files/v1/cas/{digest}",
        "whole": True,
        "part": [206, True],
        "picture": [200, "ffd8"],
        "listed": [digest.key],
        "left": [],
        "after": 404,
        "imported": [],
        "models": False,
    }
