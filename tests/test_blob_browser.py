"""Blobs in a real browser: what may be shown is shown, and nothing uploaded runs."""

from __future__ import annotations

import io
from collections.abc import Iterator
from html import escape
from pathlib import Path
from urllib.parse import urljoin

import pytest
import requests
from PIL import Image
from playwright.sync_api import Browser, Error, Page, sync_playwright

from cas.digest import Digest, Hasher
from cas.signed_urls import blob_url
from cas.storage.base import Staged
from cas.storage.disk import DiskBlobStorage
from tests.installation import Installation
from tests.server import Server

pytestmark = pytest.mark.sqlite

CHROMIUM = "/usr/bin/chromium"
RED = (255, 0, 0)
SCRIPT = b"<script>document.title='ran';new Image().src='/ran'</script>"
POLYGLOTS = {
    "html": b"<!doctype html>" + SCRIPT,
    "gif": b"GIF89a/*" + b"\0" * 20 + b"*/=1;window.ran=1;//<html>" + SCRIPT,
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg' onload=\"document.title='ran'\">"
    b"<script>new Image().src='/ran'</script></svg>",
    "pdf": b"%PDF-1.7\n<html>" + SCRIPT,
}
TYPES = [
    "text/html",
    "image/svg+xml",
    "application/xhtml+xml",
    "text/xml",
    "text/javascript",
    "image/gif",
    "application/pdf",
    "text/plain",
]


class Site:
    """The service, and its store on this test's disk."""

    def __init__(self, url: str, store: DiskBlobStorage) -> None:
        self.url = url
        self._store = store

    def put(self, data: bytes) -> Digest:
        hasher = Hasher()
        hasher.update(data)
        path = self._store.staging_dir / "staged"
        path.write_bytes(data)
        self._store.create(Staged(path, hasher.digest, hasher.md5, hasher.size))
        path.unlink()
        return hasher.digest

    def upload(self, name: str, data: bytes) -> requests.Response:
        """Attach a file to a new part."""
        api = f"{self.url}/api/parts"
        part = requests.post(api, json={"description": "Polyglot"}, timeout=60).json()
        where = f"{api}/{part['key']}/attachments"
        return requests.post(where, files={"file": (name, data, "image/png")}, timeout=60)

    def link(
        self, data: bytes, content_type: str, disposition: str = "inline", filename: str = ""
    ) -> str:
        digest = self.put(data)
        return self.url + blob_url(
            digest, content_type=content_type, disposition=disposition, filename=filename
        )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    data = tmp_path_factory.mktemp("site")
    # Its own database in any case: parts are made here.
    Installation(data, {"DATABASE_URL": ""}).check("migrate", "--verbosity", "0")
    with Server(data, INVENTORY_WORKERS="1", DATABASE_URL="") as server:
        yield Site(server.url, DiskBlobStorage(location=data / "attachments"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    opened = browser.new_page(viewport={"width": 900, "height": 700})
    # For a machine that does much else at the same time.
    opened.set_default_timeout(120_000)
    yield opened
    opened.close()


def red_pdf() -> bytes:
    sink = io.BytesIO()
    # A palette is kept as it is; other colours would go through a JPEG, which is not exact.
    Image.new("RGB", (70, 90), RED).quantize().save(sink, "PDF", resolution=7.2)
    return sink.getvalue()


def centre(page: Page) -> tuple[int, ...]:
    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    colour: tuple[int, ...] = shot.getpixel((shot.width // 2 + 60, shot.height // 2))  # type: ignore[assignment]
    return colour


def test_an_image_is_shown(site: Site, page: Page) -> None:
    sink = io.BytesIO()
    Image.new("RGB", (900, 700), RED).save(sink, "PNG")
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(site.link(sink.getvalue(), "image/png", filename="rot.png"))
    assert page.evaluate("document.images[0].naturalWidth") == 900
    assert centre(page) == RED
    assert [text for text in said if "Security Policy" in text] == []


def test_a_pdf_opens_in_the_viewer(site: Site, page: Page) -> None:
    page.goto(site.link(red_pdf(), "application/pdf", filename="datasheet.pdf"))
    for _ in range(100):
        if centre(page) == RED:
            break
        page.wait_for_timeout(100)
    assert centre(page) == RED
    assert any(frame.url.startswith("chrome-extension://") for frame in page.frames)


def test_a_download_keeps_its_unicode_name(site: Site, page: Page, tmp_path: Path) -> None:
    data, name = b"%PDF-1.7 some bytes", "Schaltplan №5 – 回路図 100% 'ok' 📷.pdf"
    link = site.link(data, "application/pdf", "attachment", name)
    with page.expect_download() as started, pytest.raises(Error, match="Download is starting"):
        page.goto(link)
    assert started.value.suggested_filename == name
    target = tmp_path / "saved"
    started.value.save_as(target)
    assert target.read_bytes() == data


@pytest.mark.parametrize("kind", POLYGLOTS)
def test_the_polyglots_run_where_nothing_stops_them(site: Site, page: Page, kind: str) -> None:
    """What the tests below rely on: the same bytes, with another server's headers."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    content_type = "image/svg+xml" if kind == "svg" else "text/html"
    page.route(
        "**/elsewhere",
        lambda route: route.fulfill(body=POLYGLOTS[kind], content_type=content_type),
    )
    page.goto(f"{site.url}/elsewhere")
    assert page.title() == "ran"
    assert f"{site.url}/ran" in asked


@pytest.mark.parametrize("kind", POLYGLOTS)
def test_a_polyglot_does_not_run(site: Site, page: Page, kind: str) -> None:
    """Whatever type its URL names."""
    links = [site.link(POLYGLOTS[kind], content_type) for content_type in TYPES]
    never_runs(site, page, links)


@pytest.mark.parametrize("kind", ["png", "pdf"])
def test_an_uploaded_polyglot_does_not_run(site: Site, page: Page, kind: str) -> None:
    """Gone through the API, and opened by the URLs that it answers."""
    sink = io.BytesIO()
    Image.new("RGB", (8, 8), RED).save(sink, "PNG")
    files = {"png": sink.getvalue() + b"<html>" + SCRIPT, "pdf": POLYGLOTS["pdf"]}
    shown = site.upload(f"polyglot.html.{kind}", files[kind])
    assert shown.status_code == 201
    never_runs(site, page, [shown.json()["view_url"], shown.json()["download_url"]])


@pytest.mark.parametrize("kind", ["html", "svg"])
def test_a_page_is_not_taken_for_an_image(site: Site, kind: str) -> None:
    refused = site.upload("harmless.png", POLYGLOTS[kind])
    assert refused.json()["error"]["code"] == "unsupported_type"


def never_runs(site: Site, page: Page, paths: list[str]) -> None:
    """Opened by itself, and pulled in by a page of our own origin in every way there is."""
    links = [urljoin(site.url, path) for path in paths]
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for link in links:
        try:
            page.goto(link)
        except Error as error:
            assert "Download is starting" in str(error)  # noqa: PT017
        else:
            assert page.title() != "ran"
    host = "<!doctype html><title>host</title>" + "".join(
        f"""<iframe src="{link}"></iframe><object data="{link}"></object><embed src="{link}">
        <img src="{link}"><script src="{link}"></script><link rel="stylesheet" href="{link}">"""
        for link in map(escape, links)
    )
    page.route("**/host", lambda route: route.fulfill(body=host, content_type="text/html"))
    page.goto(f"{site.url}/host")
    page.wait_for_load_state("networkidle")
    assert page.title() == "host"
    assert page.evaluate("window.ran") is None
    assert f"{site.url}/ran" not in asked
    assert set(links) <= set(asked)
