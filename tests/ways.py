"""`python -m tests.ways`: how many files and functions of ours each way through the code crosses.

Each way is walked twice on SQLite and a store on disk, and the second time is recorded: what is
imported or created once is not counted, nor is logging. Threads and child processes are. An upload
makes its thumbnail, whose files are counted where that is made alone. Ends with status 1 if a way
crosses more files than `MOST_FILES` allows. `--list` names the functions.
"""

from __future__ import annotations

import io
import itertools
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parent.parent
ROOMS: Final = ("inventory", "accounts", "parts", "attachments", "cas")
MOST_FILES: Final = {
    "GET a blob": 8,
    "thumbnail, cached": 9,
    "thumbnail, made": 14,
    "POST an upload": 17,
    "migrate one row": 16,
}
DIRECTORY: Final = "WAYS_DIRECTORY"
"""Names the recorder's directory to child processes."""

SETTLED: Final = 0.3
"""Seconds without a call of ours, after which threads and child processes have ended their work."""

CHILD: Final = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from tests import ways
ways.Recorder.join()
"""


class Call(NamedTuple):
    thread: str
    file: str
    function: str


class Recorder:
    """Appends each call of a function of ours to a file that all threads and processes share."""

    def __init__(self, directory: Path) -> None:
        self.calls = directory / "calls"
        self.switch = directory / "recording"
        self.own: dict[CodeType, str | None] = {}
        self.descriptor = os.open(self.calls, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        threading.setprofile(self.hear)
        sys.setprofile(self.hear)

    @classmethod
    def join(cls) -> None:
        """Record in a child process that was started with `DIRECTORY` in its environment."""
        if directory := os.environ.get(DIRECTORY):
            cls(Path(directory))

    def hear(self, frame: FrameType, event: str, argument: Any) -> None:
        """The profile function (`sys.setprofile`)."""
        if event != "call":
            return
        code = frame.f_code
        if code not in self.own:
            self.own[code] = own_name(code)
        if (name := self.own[code]) and self.switch.exists():
            thread = f"{os.getpid()}.{threading.get_native_id()}"
            os.write(self.descriptor, f"{thread} {name}\n".encode())

    @contextmanager
    def recording(self) -> Iterator[list[Call]]:
        """The calls made in the block; complete only after it."""
        os.truncate(self.calls, 0)
        self.switch.touch()
        calls: list[Call] = []
        try:
            yield calls
            self.wait_until_settled()
        finally:
            self.switch.unlink()
        calls += [Call(*line.split(" ", 2)) for line in self.calls.read_text().splitlines()]

    def wait_until_settled(self) -> None:
        size = -1
        while size != (size := self.calls.stat().st_size):
            time.sleep(SETTLED)


def own_name(code: CodeType) -> str | None:
    """`file function` of product code; None for tests, imports and code of others."""
    try:
        file = Path(code.co_filename).relative_to(ROOT)
    except ValueError:
        return None
    if file.parts[0] not in ROOMS or {"tests", "migrations"} & set(file.parts):
        return None
    if code.co_name in ("<module>", "<genexpr>", "<listcomp>", "<dictcomp>", "<setcomp>"):
        return None
    return f"{file} {code.co_qualname}"


def changes_of_file(calls: list[Call]) -> int:
    """How often, within a thread, the next call is in another file than the one before."""
    last: dict[str, str] = {}
    changes = 0
    for call in calls:
        changes += last.get(call.thread, call.file) != call.file
        last[call.thread] = call.file
    return changes


def picture(number: int) -> bytes:
    """A JPEG that is unlike any other number's."""
    from PIL import Image

    sink = io.BytesIO()
    Image.linear_gradient("L").resize((900, 700)).convert("RGB").save(
        sink, "JPEG", comment=str(number).encode()
    )
    return sink.getvalue()


class Installation:
    """An empty collection, and the ways through it.

    Each way is a function that prepares one walk and returns it, so that only the walk is recorded.
    """

    def __init__(self) -> None:
        import django
        from django.core.management import call_command

        django.setup()
        from cas.thumbnails import process

        # Otherwise it inherits nothing.
        process._ENVIRONMENT[DIRECTORY] = os.environ[DIRECTORY]
        process._ENVIRONMENT["PYTHONPATH"] = f"{os.environ['PYTHONPATH']}:{ROOT}"
        logging.disable(logging.WARNING)
        call_command("migrate", verbosity=0)
        from django.test import Client

        self.client: Any = Client(SERVER_NAME="localhost")
        self.pictures = (picture(number) for number in itertools.count())
        self.ways: dict[str, Callable[[], Callable[[], Any]]] = {
            "GET a blob": lambda: self.get(self.uploaded()["view_url"]),
            "thumbnail, cached": self.cached_thumbnail,
            "thumbnail, made": self.made_thumbnail,
            "POST an upload": self.post,
            "migrate one row": self.migrate,
        }

    def post(self) -> Callable[[], Any]:
        """Uploads a picture to a new part; the walk returns what was answered."""
        from django.core.files.uploadedfile import SimpleUploadedFile

        part = {"description": "Fuse"}
        made = self.client.post("/api/parts", part, content_type="application/json")
        url = f"/api/parts/{made.json()['key']}/attachments"
        file = SimpleUploadedFile("photo.jpg", next(self.pictures))

        def walk() -> Any:
            answer = self.client.post(url, {"file": file})
            assert answer.status_code == 201, answer.content
            return answer.json()

        return walk

    def uploaded(self) -> Any:
        return self.post()()

    def get(self, url: str) -> Callable[[], None]:
        def walk() -> None:
            answer = self.client.get(url)
            assert answer.status_code == 200, answer.status_code
            # Reading a stream to its end closes it.
            assert answer.getvalue()

        return walk

    def cached_thumbnail(self) -> Callable[[], None]:
        walk = self.get(self.uploaded()["thumbnail_url"])
        walk()
        return walk

    def made_thumbnail(self) -> Callable[[], None]:
        from cas.conf import serving

        walk = self.get(self.uploaded()["thumbnail_url"])
        time.sleep(SETTLED)
        for kept in serving().thumbnail_cache_dir.rglob("*.jpg"):
            kept.unlink()
        return walk

    def migrate(self) -> Callable[[], None]:
        from django.core.management import call_command

        from attachments.tests.factories import legacy_row
        from parts.models import Part

        with tempfile.TemporaryDirectory() as directory:
            part = Part.objects.create(description="Fuse")
            row = legacy_row(part, next(self.pictures), Path(directory, "object"))

        def walk() -> None:
            call_command("migrate_to_cas", "--yes-i-am-sure", stdout=io.StringIO())
            row.refresh_from_db()
            assert row.digest

        return walk


def main() -> int:
    os.environ.pop("DATABASE_URL", None)
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    too_long = False
    with tempfile.TemporaryDirectory() as directory:
        # Python runs a module of this name first: child processes join in by it.
        Path(directory, "sitecustomize.py").write_text(CHILD)
        os.environ |= {DIRECTORY: directory, "PYTHONPATH": directory}
        recorder = Recorder(Path(directory))
        installation = Installation()
        print(f"{'way':<20}{'files':>7}{'most':>6}{'functions':>11}{'changes of file':>17}")
        for name, prepare in installation.ways.items():
            prepare()()
            with recorder.recording():
                walk = prepare()
            with recorder.recording() as calls:
                walk()
            files = {call.file for call in calls}
            if name == "POST an upload":
                files = {file for file in files if not file.startswith("cas/thumbnails/")}
            functions = dict.fromkeys((call.file, call.function) for call in calls)
            most = MOST_FILES.get(name, "")
            too_long |= isinstance(most, int) and len(files) > most
            changes = changes_of_file(calls)
            print(f"{name:<20}{len(files):>7}{most:>6}{len(functions):>11}{changes:>17}")
            if "--list" in sys.argv:
                print("\n".join(f"    {file:<40}{function}" for file, function in functions))
    return int(too_long)


if __name__ == "__main__":
    sys.exit(main())
