"""Everything at once on one installation, and nothing that was answered 201 is ever lost.

`SOAK_SECONDS` in the environment of the test run says for how long.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from attachments.maintenance.run import ExitStatus
from tests.installation import Installation
from tests.server import Server

SECONDS = float(os.environ.get("SOAK_SECONDS", "30"))
CONTENTS = 12
"""So few that uploads keep running into blobs that are just being collected."""

UPLOADERS = 3


def request(url: str, data: bytes | None = None, **headers: str) -> tuple[int, Any]:
    method = headers.pop("method", None)
    asked = urllib.request.Request(url, data, headers, method=method)
    try:
        with urllib.request.urlopen(asked, timeout=60) as response:
            body = response.read()
            kind = response.headers.get("Content-Type", "")
            return response.status, json.loads(body) if "json" in kind else body
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def pdf(number: int) -> bytes:
    return b"%%PDF-1.4\n%% content %d\n" % number + b"%%EOF\n"


class Uploads:
    """Threads that upload, and delete some of it again. What is kept was answered 201."""

    def __init__(self, url: str) -> None:
        made = request(f"{url}/api/parts", b'{"description": "Shared"}', **JSON)[1]
        self._url = url
        self._attachments = f"{url}/api/parts/{made['key']}/attachments"
        self.kept: dict[int, tuple[str, str]] = {}
        self.answers: Counter[int] = Counter()

    def once(self, chance: random.Random) -> None:
        content = pdf(chance.randrange(CONTENTS))
        boundary = uuid.uuid4().hex
        body = (
            (
                f"--{boundary}\r\n"
                'Content-Disposition: form-data; name="file"; filename="a.pdf"\r\n\r\n'
            ).encode()
            + content
            + f"\r\n--{boundary}--\r\n".encode()
        )
        kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        status, answer = request(self._attachments, body, **kind)
        self.answers[status] += 1
        if status != 201:
            return
        self.kept[answer["id"]] = (answer["download_url"], hashlib.sha256(content).hexdigest())
        # Nearly all goes again, so that there is always garbage of the same contents.
        if chance.random() < 0.95:
            number = chance.choice(list(self.kept))
            kept = self.kept.pop(number, None)
            if kept and request(f"{self._attachments}/{number}", method="DELETE")[0] >= 500:
                self.kept[number] = kept

    def unreadable(self) -> list[str]:
        found = []
        for url, digest in self.kept.values():
            status, body = request(self._url + url)
            if status != 200 or hashlib.sha256(body).hexdigest() != digest:
                found.append(f"{status} {url}")
        return found


JSON = {"Content-Type": "application/json"}


class Together:
    """Runs jobs over and over, each in a thread, until the time is over."""

    def __init__(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        self._threads: list[threading.Thread] = []
        self.errors: list[BaseException] = []

    def go_on(self, job: Callable[[], object]) -> None:
        def loop() -> None:
            while time.monotonic() < self._deadline and not self.errors:
                try:
                    job()
                except BaseException as error:
                    self.errors.append(error)
                    raise

        self._threads.append(threading.Thread(target=loop))
        self._threads[-1].start()

    def wait(self) -> None:
        for thread in self._threads:
            thread.join()
        assert not self.errors


@pytest.mark.postgres
def test_uploads_migrations_cleanups_and_collections(
    installation: Installation, tmp_path: Path
) -> None:
    statuses: dict[str, Counter[ExitStatus]] = {}

    def command(name: str, *options: str) -> None:
        status, output = installation.manage(name, "--yes-i-am-sure", *options)
        statuses.setdefault(name, Counter())[ExitStatus(status)] += 1
        assert status in (0, ExitStatus.REFUSED, ExitStatus.LOCKED, ExitStatus.ITEMS_FAILED), output

    variables = {**installation.environment, "INVENTORY_WORKERS": "1"}
    variables.pop("PORT", None)
    with Server(tmp_path, **variables) as server:
        uploads = Uploads(server.url)
        together = Together(SECONDS)
        for number in range(UPLOADERS):
            together.go_on(partial(uploads.once, random.Random(number)))  # noqa: S311
        together.go_on(lambda: installation.fill(60))
        for _ in range(2):
            together.go_on(lambda: command("migrate_to_cas", "--workers", "2"))
        together.go_on(lambda: command("cleanup_legacy_blobs"))
        together.go_on(
            lambda: command("collect_garbage", "--grace", "0s", "--max-delete-percent", "100")
        )
        together.wait()
        assert uploads.answers[201] > UPLOADERS, uploads.answers
        assert set(uploads.answers) == {201}, uploads.answers
        assert uploads.unreadable() == []
        print(SECONDS, "s:", dict(uploads.answers), statuses, len(uploads.kept), "kept")

        installation.check("migrate_to_cas", "--yes-i-am-sure")
        installation.check("cleanup_legacy_blobs", "--yes-i-am-sure", "--verify-content")
        installation.check("verify_cas", "--read-all")
        assert uploads.unreadable() == []
    found = installation.inspect()
    assert found["rows"] == found["whole"]
    assert found["legacy"] == 0
