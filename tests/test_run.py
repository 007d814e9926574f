"""What `make run` does, from an empty folder to a page in a browser, and once more."""

from __future__ import annotations

import http.cookiejar
import json
import os
import re
import stat
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.server import ROOT, Server

pytestmark = pytest.mark.sqlite


def first_run(data_dir: Path, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "inventory.first_run"],
        cwd=ROOT,
        env={
            **os.environ,
            "INVENTORY_DATA_DIR": str(data_dir),
            "DATABASE_URL": "",
            **variables,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def completed(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


def get_json(server: Server, path: str) -> Any:
    status, body = server.get(path)
    assert status == 200, body
    return json.loads(body)


def log_in(server: Server, name: str, password: str) -> str:
    """The page after logging in to the admin."""
    cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
    browser = urllib.request.build_opener(cookies)
    page = f"{server.url}/admin/login/?next=/admin/"
    with browser.open(page) as response:
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', response.read().decode())
    assert token
    form = {"csrfmiddlewaretoken": token[1], "username": name, "password": password}
    data = urllib.parse.urlencode(form).encode()
    with browser.open(page, data) as response:
        shown: str = response.read().decode()
        return shown


def test_a_first_run_killed_midway_and_taken_up_again_ends_with_a_served_collection(
    tmp_path: Path,
) -> None:
    interrupted = first_run(tmp_path)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("attachments/parts/*"))) < 5:
        assert interrupted.poll() is None, interrupted.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    children = Path(f"/proc/{interrupted.pid}/task/{interrupted.pid}/children").read_text()
    interrupted.kill()
    subprocess.run(["kill", "-KILL", *children.split()], check=False)
    interrupted.communicate()

    output = completed(first_run(tmp_path))
    assert "$ manage.py load_sample --layout legacy --parts 60 --seed 1" in output
    assert "$ manage.py migrate_to_cas --yes-i-am-sure" in output
    password_file = tmp_path / "admin-password"
    assert stat.S_IMODE(password_file.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "inventory.sqlite3").stat().st_mode) == 0o600
    password = password_file.read_text().strip()
    assert password not in output

    again = completed(first_run(tmp_path))
    assert "$ manage.py" not in again
    assert password_file.read_text().strip() == password

    with Server(tmp_path, DATABASE_URL="") as server:
        listed = get_json(server, "/api/parts?page_size=100")
        assert listed["count"] == 60
        part = next(part for part in listed["results"] if part["cover_url"])
        assert part["cover_url"].startswith("/api/cas/")
        status, thumbnail = server.get(part["cover_url"])
        assert (status, thumbnail[:3]) == (200, b"\xff\xd8\xff")
        (attachment, *_) = get_json(server, f"/api/parts/{part['key']}/attachments")
        status, blob = server.get(attachment["download_url"])
        assert (status, len(blob)) == (200, attachment["file_size"])
        ready = get_json(server, "/health/ready")
        assert ready["checks"]["unmigrated_attachments"] is False
        assert "Log out" in log_in(server, "admin", password)
        assert server.stop() == 0


def test_production_gets_no_account_and_no_sample(tmp_path: Path) -> None:
    output = completed(
        first_run(tmp_path, INVENTORY_ENV="production", SECRET_KEY="k3y-" + 10 * "abcdefg")
    )
    assert not output
    assert not (tmp_path / "admin-password").exists()
    assert not (tmp_path / "attachments").exists()
