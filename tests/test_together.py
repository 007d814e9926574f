"""Everything at once on one installation, and nothing that was answered 201 is ever lost.

`SOAK_SECONDS` in the environment of the test run says for how long at least. It goes on until
every kind of run did its work: runs that had all been refused would lose nothing either.
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
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from attachments.tests.legacy import summary_of
from cas.exit_status import ExitStatus
from tests.installation import Installation
from tests.server import Server

SECONDS = float(os.environ.get("SOAK_SECONDS", "20"))
LONGEST_SECONDS = SECONDS + 600
"""When a machine is given up on that has not done all kinds of work by then."""

CONTENTS = 12
"""So few that uploads keep running into blobs that are just being collected."""

UPLOADERS = 3
TRIES = 100
KEPT = 8
"""Attachments that are there at a time: fewer than contents, so some are always unreferenced."""


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


JSON = {"Content-Type": "application/json"}


class Uploads:
    """What threads upload and copy, and read and delete again. All of it was answered 201."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._parts = [self._new_part() for _ in range(2)]
        self._newest = 0
        self._kept: dict[str, tuple[str, str | None]] = {}
        """Download URL and, where it is known, the digest, by the attachment's own URL."""
        self._lost: list[str] = []
        self.answers: Counter[int] = Counter()
        self.copies: Counter[int] = Counter()

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
        url = f"{self._url}/api/parts/{self._parts[0]}/attachments"
        status, answer = request(url, body, **kind)
        self.answers[status] += 1
        if status == 201:
            self._newest = answer["id"]
            self._keep(self._parts[0], answer, hashlib.sha256(content).hexdigest(), chance)

    def copy(self, chance: random.Random) -> None:
        """Copy a row, whoever made it: on an old key, migrated meanwhile, or just deleted."""
        asked = {
            "attachment_id": chance.randint(1, max(1, self._newest)),
            "target_part_key": self._parts[1],
        }
        status, answer = request(
            f"{self._url}/api/parts/copy-attachment", json.dumps(asked).encode(), **JSON
        )
        self.copies[status] += 1
        if status == 201:
            self._keep(self._parts[1], answer, None, chance)

    def unreadable(self) -> list[str]:
        """URLs of attachments that could not be read, now or before they were deleted."""
        for url, digest in self._kept.values():
            self._read(url, digest)
        return self._lost

    def _read(self, url: str, digest: str | None) -> None:
        status, body = request(self._url + url)
        if status != 200 or digest not in (None, hashlib.sha256(body).hexdigest()):
            self._lost.append(f"{status} {url}")

    def _new_part(self) -> str:
        made = request(f"{self._url}/api/parts", b'{"description": "Shared"}', **JSON)[1]
        key: str = made["key"]
        return key

    def _keep(self, part: str, answer: Any, digest: str | None, chance: random.Random) -> None:
        own = f"{self._url}/api/parts/{part}/attachments/{answer['id']}"
        self._kept[own] = (answer["download_url"], digest)
        if len(self._kept) <= KEPT:
            return
        # Any of them, so that most have been there for a while.
        own = chance.choice(list(self._kept))
        if (kept := self._kept.pop(own, None)) is None:
            return
        # A copy may be of a row whose object is still on its way.
        if kept[1] is not None:
            self._read(*kept)
        if request(own, method="DELETE")[0] >= 500:
            self._kept[own] = kept


class Turns:
    """Lets whoever wants silence wait for all that work, and begin nothing new meanwhile."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._working = 0
        self._silence = False

    @contextmanager
    def work(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._silence)
            self._working += 1
        try:
            yield
        finally:
            with self._changed:
                self._working -= 1
                self._changed.notify_all()

    @contextmanager
    def silence(self) -> Iterator[None]:
        with self._changed:
            self._silence = True
            self._changed.wait_for(lambda: self._working == 0)
        try:
            yield
        finally:
            with self._changed:
                self._silence = False
                self._changed.notify_all()


class Commands:
    """Runs maintenance commands, and counts how they ended and what they did."""

    WORK = {
        "migrate_to_cas": ("migrated", "deduplicated"),
        "cleanup_legacy_blobs": ("deleted",),
        "collect_garbage": ("collected",),
        "verify_cas": ("intact",),
    }

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._turns = Turns()
        self.statuses: dict[str, Counter[ExitStatus]] = {name: Counter() for name in self.WORK}
        self.work: Counter[str] = Counter()

    def fill(self) -> None:
        with self._turns.work():
            self._installation.fill(60)

    def migrate(self) -> None:
        # Rows that were just added may not have their objects yet.
        with self._turns.work():
            self.run("migrate_to_cas", "--workers", "2", allowed={ExitStatus.ITEMS_FAILED})

    def verify(self) -> None:
        with self._turns.work():
            self.run("verify_cas", "--repair")

    def collect(self) -> None:
        self.run("collect_garbage", "--grace", "0s", "--max-delete-percent", "100")

    def clean_up(self) -> None:
        """First amid all the others, when it must mostly refuse, then with all rows migrated."""
        self.run("cleanup_legacy_blobs", allowed={ExitStatus.REFUSED})
        with self._turns.silence():
            # A row that is copied while it is migrated is one more to be done. On SQLite even a
            # collection, which goes on, keeps others waiting.
            self._until_done("migrate_to_cas", {ExitStatus.ITEMS_FAILED})
            self._until_done("cleanup_legacy_blobs")

    def _until_done(self, name: str, allowed: Set[ExitStatus] = frozenset()) -> None:
        for _ in range(TRIES):
            if self.run(name, allowed=allowed) is ExitStatus.DONE:
                return
            time.sleep(0.1)
        raise AssertionError(f"{name} is not done after {TRIES} tries")

    def run(
        self,
        name: str,
        *options: str,
        allowed: Set[ExitStatus] = frozenset(),
    ) -> ExitStatus:
        code, output = self._installation.manage(name, "--yes-i-am-sure", "--json", *options)
        status = ExitStatus(code)
        self.statuses[name][status] += 1
        assert status in {ExitStatus.DONE, ExitStatus.LOCKED, *allowed}, f"{name}: {output}"
        if status in (ExitStatus.DONE, ExitStatus.ITEMS_FAILED):
            summary = summary_of(output)
            self.work[name] += sum(summary[count] for count in self.WORK[name])
        return status


class Together:
    """Runs jobs over and over, each in a thread, until the time is over and enough was done."""

    def __init__(self, seconds: float, enough: Callable[[], bool]) -> None:
        self._begun = time.monotonic()
        self._seconds = seconds
        self._enough = enough
        self._threads: list[threading.Thread] = []
        self.errors: list[BaseException] = []

    def go_on(self, job: Callable[[], object]) -> None:
        def loop() -> None:
            while not self._over() and not self.errors:
                try:
                    job()
                except BaseException as error:  # noqa: BLE001
                    # All others end too, and `wait` reports it.
                    self.errors.append(error)

        self._threads.append(threading.Thread(target=loop))
        self._threads[-1].start()

    def _over(self) -> bool:
        passed = time.monotonic() - self._begun
        return passed > LONGEST_SECONDS or (passed > self._seconds and self._enough())

    def wait(self) -> None:
        for thread in self._threads:
            thread.join()
        assert not self.errors, "\n".join(str(error)[-3000:] for error in self.errors)


@pytest.mark.postgres
def test_uploads_copies_migrations_cleanups_verifications_and_collections(
    installation: Installation, tmp_path: Path
) -> None:
    variables = {**installation.environment, "INVENTORY_WORKERS": "1"}
    variables.pop("PORT", None)
    with Server(tmp_path, **variables) as server:
        uploads, commands = Uploads(server.url), Commands(installation)

        def enough() -> bool:
            # More than there are contents: some came again after they had been collected.
            return (
                uploads.answers[201] > CONTENTS
                and uploads.copies[201] > 0
                and commands.work["collect_garbage"] > CONTENTS
                and all(commands.work[name] for name in Commands.WORK)
            )

        # A store that has nothing that rows name is refused as the wrong one.
        uploads.once(random.Random("first"))  # noqa: S311
        together = Together(SECONDS, enough)
        for number in range(UPLOADERS):
            together.go_on(partial(uploads.once, random.Random(number)))  # noqa: S311
        together.go_on(partial(uploads.copy, random.Random("copies")))  # noqa: S311
        together.go_on(commands.fill)
        for job in (commands.migrate, commands.migrate, commands.verify):
            together.go_on(job)
        together.go_on(commands.clean_up)
        together.go_on(commands.collect)
        together.wait()
        print(SECONDS, "s:", dict(uploads.answers), "copies:", dict(uploads.copies))
        print(commands.statuses, dict(commands.work))
        assert uploads.unreadable() == []
        assert enough(), (uploads.answers, uploads.copies, commands.statuses, commands.work)
        assert set(uploads.answers) == {201}, uploads.answers
        assert set(uploads.copies) <= {201, 404}, uploads.copies

        installation.check("migrate_to_cas", "--yes-i-am-sure")
        installation.check("cleanup_legacy_blobs", "--yes-i-am-sure", "--verify-content")
        installation.check("verify_cas", "--read-all")
        assert uploads.unreadable() == []
    found = installation.inspect()
    assert found["rows"] == found["whole"]
    assert found["legacy"] == 0
