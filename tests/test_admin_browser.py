"""The admin as a person uses it: in a real browser, on a real server.

Playwright keeps an event loop running on this thread, where Django refuses to query: the
database is asked before the browser starts and after it has closed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import ConsoleMessage, Page, expect, sync_playwright
from pytest_django.live_server_helper import LiveServer

from attachments.tests.factories import PDF, picture
from cas.digest import Digest
from cas.storage.base import BlobStore, Unreachable
from parts.models import Part

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-component-update",
]
FRONT = picture("teal", (900, 600), "JPEG")
BACK = picture("maroon", (600, 900), "WEBP")
LOADED = "images => images.length > 0 && images.every(i => i.complete && i.naturalWidth > 0)"


@contextmanager
def browsing(server: LiveServer) -> Iterator[Page]:
    """A page of a fresh browser; what goes wrong in its console fails the test."""
    faults: list[str] = []

    def heard(message: ConsoleMessage) -> None:
        if message.type == "error" and "favicon" not in message.location["url"]:
            faults.append(f"{message.text} {message.location['url']}")

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(base_url=server.url, viewport={"width": 1280, "height": 900})
        page.on("console", heard)
        page.on("pageerror", lambda error: faults.append(str(error)))
        # For a machine that does much else at the same time.
        page.set_default_timeout(60_000)
        expect.set_options(timeout=60_000)
        yield page
        browser.close()
    assert faults == []


def log_in(page: Page) -> None:
    page.goto("/admin")
    page.get_by_label("Username").fill("operator")
    page.get_by_label("Password").fill("secret")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", name="Collection")).to_be_visible()


def attach(page: Page, number: int, name: str, content: bytes) -> None:
    file = {"name": name, "mimeType": "application/octet-stream", "buffer": content}
    page.locator(f"#id_attachments-{number}-file").set_input_files(file)  # type: ignore[arg-type]


def save(page: Page) -> None:
    page.get_by_role("button", name="Save and continue editing").click()


def expect_pictures(page: Page, selector: str, count: int) -> None:
    images = page.locator(selector)
    expect(images).to_have_count(count)
    for number in range(count):
        images.nth(number).scroll_into_view_if_needed()
    page.wait_for_function(
        f"selector => ({LOADED})([...document.querySelectorAll(selector)])", arg=selector
    )


@pytest.mark.django_db(transaction=True)
def test_a_part_with_attachments_from_start_to_end(
    disk_store: BlobStore, live_server: LiveServer
) -> None:
    User.objects.create_superuser("operator", password="secret")
    front, back = Digest.of(FRONT), Digest.of(BACK)
    with browsing(live_server) as page:
        log_in(page)
        create_part_with_files(page)
        choose_cover(page, front, back)
        refuse_what_is_no_image(page)
        survive_a_store_that_is_down(page, type(disk_store))
        delete_cover(page)
        find_by_digest(page, front)
    part = Part.objects.get()
    assert part.description == "Voltage regulator 3.3 V"
    assert [row.filename for row in part.attachments.all()] == ["front.jpg", "Datenblatt µ.pdf"]
    assert part.cover_attachment == part.attachments.first()
    assert disk_store.stat(back.key).size == len(BACK), "the blob is the collector's to delete"


def create_part_with_files(page: Page) -> None:
    page.locator("#content .model-part .addlink").click()
    page.get_by_label("Description").fill("Voltage regulator 3.3 V")
    attach(page, 0, "front.jpg", FRONT)
    page.locator("#id_attachments-0-title").fill("Front")
    for number, name, content in ((1, "back.webp", BACK), (2, "Datenblatt µ.pdf", PDF)):
        page.get_by_role("button", name="Add another Attachment").click()
        attach(page, number, name, content)
    save(page)
    expect(page.locator(".messagelist")).to_contain_text("was added successfully")
    expect(page.locator(".field-shown_key .readonly")).to_have_text(re.compile("^[A-Z]{4}$"))
    expect_pictures(page, "#attachments-group .attachment-preview img", 2)
    expect(page.locator("#attachments-2")).to_contain_text("Datenblatt µ.pdf")
    expect(page.locator("#attachments-2 .attachment-badge")).to_have_text("PDF")
    wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert wide <= 0, "the page is wider than the window"


def choose_cover(page: Page, front: Digest, back: Digest) -> None:
    choices = page.locator(".cover-choice label")
    expect(choices).to_have_count(3)
    expect(choices.filter(has=page.locator("input:checked"))).to_contain_text("Front")
    expect_pictures(page, ".cover-choice img", 2)
    choices.filter(has_text="back.webp").click()
    save(page)
    checked = page.locator(".cover-choice label").filter(has=page.locator("input:checked"))
    expect(checked).to_contain_text("back.webp")
    page.locator(".breadcrumbs").get_by_role("link", name="Parts").last.click()
    expect_pictures(page, "#result_list .field-cover img", 1)
    expect(page.locator("#result_list .field-cover img")).to_have_attribute(
        "src", re.compile(back.hex)
    )
    page.locator("#result_list .field-description a").click()


def refuse_what_is_no_image(page: Page) -> None:
    attach(page, 3, "evil.png", b"<script>alert(1)</script>")
    save(page)
    expect(page.locator("#attachments-3 .errorlist")).to_contain_text(
        "evil.png: Only JPEG, PNG, WebP, GIF and AVIF images and PDFs are accepted."
    )


def survive_a_store_that_is_down(page: Page, store: type[Any]) -> None:
    def fails(self: Any, staged: Any, *proofs: Any) -> None:
        raise Unreachable("connection refused")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "create", fails)
        page.get_by_label("Description").fill("Not to be saved")
        attach(page, 3, "side.png", picture("navy"))
        save(page)
        expect(page.locator("#attachments-group .errorlist.nonform")).to_contain_text(
            "The file store does not answer at the moment."
        )
        expect(page.get_by_label("Description")).to_have_value("Not to be saved")
    page.goto(page.url)
    expect(page.get_by_label("Description")).to_have_value("Voltage regulator 3.3 V")


def delete_cover(page: Page) -> None:
    page.locator("#id_attachments-1-DELETE").check()
    save(page)
    expect(page.locator(".cover-choice label")).to_have_count(2)
    checked = page.locator(".cover-choice label").filter(has=page.locator("input:checked"))
    expect(checked).to_contain_text("Front")


def find_by_digest(page: Page, digest: Digest) -> None:
    page.goto("/admin/attachments/attachment/")
    expect(page.locator("#result_list tbody tr")).to_have_count(2)
    page.locator("#searchbar").fill(digest.hex[:10])
    page.get_by_role("button", name="Search").click()
    expect(page.locator("#result_list tbody tr")).to_have_count(1)
    expect_pictures(page, "#result_list .attachment-preview img", 1)
    page.locator("#result_list .field-title a").click()
    expect(page.locator(".field-full_digest")).to_contain_text(digest.hex)
    expect_pictures(page, ".attachment-large img", 1)
    with page.expect_popup() as opened:
        page.get_by_role("link", name="View", exact=True).click()
    opened.value.wait_for_load_state()
    assert opened.value.evaluate("document.images[0].naturalWidth") == 900
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == "front.jpg"
    assert Path(download.value.path()).read_bytes() == FRONT
