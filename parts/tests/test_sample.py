"""The sample collection: planned from the seed alone, drawn the same everywhere, loaded safely."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.core.validators import URLValidator
from PIL import Image, ImageChops, ImageOps, ImageStat

from attachments.models import Attachment
from cas.digest import Digest, is_cas_key
from cas.storage import attachment_store
from cas.storage.base import BlobStore, Unreachable
from parts.models import Part
from parts.sample.catalog import Shape
from parts.sample.datasheets import Datasheet
from parts.sample.load import Layout, LoadOptions, LoadSummary, load
from parts.sample.photos import Photo, View
from parts.sample.plan import FAMILIES, SamplePart, collection
from parts.sample.scenes import Surface

TINY = 0.02
"""Megapixels: enough to tell a picture from an empty one."""

SEED_OF_A_CLASH = (2709, 8)
"""A seed, and how many of its first parts there must be for two to draw the same key."""

ROOT = Path(__file__).resolve().parents[2]


def load_tiny(layout: Layout, parts: int = 6, seed: int = 1) -> LoadSummary:
    return load(LoadOptions(layout, parts, seed, TINY), lambda summary: None)


def media(parts: list[SamplePart]) -> list[Photo | Datasheet]:
    return [file.media for part in parts for file in part.attachments if file.media]


def rows() -> list[tuple[Any, ...]]:
    """Everything of the collection but database ids and times."""
    parts = [
        (
            *(part.key, part.description, part.manufacturer, part.manufacturer_code, part.seller),
            *(part.type and part.type.name, part.package, part.pin_count, part.search_text),
            tuple(part.tags.values_list("name", flat=True)),
        )
        for part in Part.objects.select_related("type")
    ]
    files = Attachment.objects.values_list(
        "part__key", "attachment_type", "title", "filename", "content_type", "file_size", "url"
    )
    return [*parts, *files]


# The plan


def test_the_same_seed_plans_the_same_collection_and_another_seed_another() -> None:
    assert list(collection(40, 7)) == list(collection(40, 7))
    assert list(collection(40, 7)) != list(collection(40, 8))


def test_a_larger_collection_starts_with_the_smaller_one() -> None:
    assert list(collection(95, 3))[:35] == list(collection(35, 3))


@pytest.mark.parametrize("parts", [60, 800])
def test_about_a_third_of_the_files_is_identical_to_another(parts: int) -> None:
    files = media(list(collection(parts, 1)))
    assert 0.27 < 1 - len(set(files)) / len(files) < 0.40


def test_sixty_parts_have_about_a_hundred_and_fifty_attachments() -> None:
    assert 130 <= sum(len(part.attachments) for part in collection(60, 1)) <= 180


def test_every_planned_value_fits_its_column() -> None:
    limits: dict[str, Any] = {
        field.name: getattr(field, "max_length", None) for field in Part._meta.fields
    }
    check = URLValidator()
    for part in collection(1500, 1):
        assert len(part.item.description) > 0
        assert len(part.item.code) <= limits["manufacturer_code"]
        assert len(part.item.package.name) <= limits["package"]
        assert len(part.item.package.dimensions) <= limits["dimensions"]
        assert part.item.package.pins > 0
        assert len(part.tags) == len(set(part.tags)) > 0
        for url in (
            part.product_page,
            part.seller_link,
            *(a.url for a in part.attachments if a.url),
        ):
            check(url)
        for file in part.attachments:
            assert len(file.title) <= 255
            assert "/" not in file.filename


def test_no_two_items_of_the_catalog_share_a_code() -> None:
    codes = [(family.manufacturer, item.code) for family in FAMILIES for item in family.items]
    assert len(codes) == len(set(codes))
    assert len(codes) > 900


# What is drawn


def test_every_shape_can_be_photographed(tmp_path: Path) -> None:
    drawn = set()
    for number, family in enumerate(FAMILIES):
        item = family.items[-1]
        surface = tuple(Surface)[number % len(Surface)]
        target = tmp_path / "photo"
        Photo(item, View.SINGLE, surface, str(number)).write(target, TINY)
        with Image.open(target, formats=["JPEG"]) as image:
            image.load()
            assert max(ImageStat.Stat(image).stddev) > 8, f"{item.code} left no mark"
        drawn.add(item.package.shape)
    assert drawn == set(Shape)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("view", list(View))
def test_photos_are_whole_in_every_format(view: View, file_format: str, tmp_path: Path) -> None:
    lines = ("Maker", "CODE-1", "A part", "QTY 100") if view is View.LABEL else ()
    item = FAMILIES[0].items[0]
    photo = Photo(item, view, Surface.BOARD, "s", format=file_format, lines=lines)
    photo.write(tmp_path / "first", TINY)
    photo.write(tmp_path / "second", TINY)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    with Image.open(tmp_path / "first", formats=[file_format]) as image:
        image.verify()


def test_a_photo_is_several_megapixels_by_default(tmp_path: Path) -> None:
    Photo(FAMILIES[0].items[0], View.SINGLE, Surface.MAT, "s").write(tmp_path / "photo")
    with Image.open(tmp_path / "photo") as image:
        assert 5.5e6 < image.width * image.height < 6.5e6


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_turned_photo_is_upright_once_its_orientation_is_applied(
    orientation: int, tmp_path: Path
) -> None:
    item = FAMILIES[0].items[0]
    for value in (1, orientation):
        photo = Photo(item, View.SINGLE, Surface.WOOD, "s", orientation=value)
        photo.write(tmp_path / str(value), 0.1)
    with Image.open(tmp_path / "1") as upright, Image.open(tmp_path / str(orientation)) as turned:
        assert turned.getexif()[0x0112] == orientation
        shown = ImageOps.exif_transpose(turned)
        assert shown.size == upright.size
        difference = ImageChops.difference(shown.convert("RGB"), upright.convert("RGB"))
        assert max(ImageStat.Stat(difference).mean) < 6


def test_a_real_viewer_opens_every_datasheet(tmp_path: Path) -> None:
    for number, family in enumerate(FAMILIES):
        path = tmp_path / f"{number}.pdf"
        Datasheet(family, 1).write(path)
        info = subprocess.run(["pdfinfo", path], capture_output=True, text=True, check=True)
        assert not info.stderr
        pages = next(line for line in info.stdout.splitlines() if line.startswith("Pages:"))
        assert int(pages.split()[1]) >= 4


def test_a_datasheet_shows_its_pins_and_graphs(tmp_path: Path) -> None:
    family = next(family for family in FAMILIES if family.series == "ATmega328P")
    path = tmp_path / "sheet.pdf"
    Datasheet(family, 3).write(path)
    command = ["pdftotext", "-layout", str(path), "-"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for expected in ("PB5/SCK", "Absolute maximum ratings", "Clock frequency", "ATMEGA328P-PU"):
        assert expected in text
    command = ["pdftoppm", "-r", "30", "-f", "3", "-l", "3", "-png", str(path)]
    page = subprocess.run(command, capture_output=True, check=True)
    with Image.open(io.BytesIO(page.stdout)) as image:
        colours = image.convert("RGB").getcolors(1 << 16) or []
    assert len(colours) > 50, "the page with the graphs is blank"


def test_another_process_draws_the_same_bytes() -> None:
    """Python's hashes differ between processes; nothing drawn may depend on them."""
    program = (
        "import hashlib, sys, tempfile, pathlib\n"
        "from parts.sample.plan import collection\n"
        "path = pathlib.Path(tempfile.mkdtemp()) / 'file'\n"
        "for part in collection(4, 1):\n"
        "    for file in part.attachments:\n"
        "        if file.media:\n"
        "            file.media.write(path, 0.02)\n"
        "            print(hashlib.sha256(path.read_bytes()).hexdigest(), file.uuid)\n"
        "path.unlink(); path.parent.rmdir()\n"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
    assert outputs[0].count("\n") > 5


# Loading


@pytest.mark.django_db
def test_the_older_layout_keeps_each_file_under_its_parts_key(store: BlobStore) -> None:
    summary = load_tiny(Layout.LEGACY)
    files = Attachment.objects.exclude(attachment_type="url")
    assert summary.files == files.count() == files.unmigrated().count() > 6
    for row in files:
        assert row.s3_key
        assert row.s3_key.startswith(f"parts/{row.part_id}/attachments/")
        with store.read(row.s3_key) as stream:
            assert len(stream.read()) == row.file_size
    assert sum(1 for _ in store.scan("")) == summary.files


@pytest.mark.django_db
def test_the_present_layout_stores_each_content_once(store: BlobStore) -> None:
    summary = load_tiny(Layout.CAS)
    files = Attachment.objects.exclude(attachment_type="url")
    assert summary.files == files.count() > len(summary.contents)
    for row in files:
        assert row.digest
        with store.read(row.digest.key) as stream:
            assert Digest.of(stream.read()) == row.digest
    stored = [stat.key for stat in store.scan("")]
    assert sorted(stored) == sorted(digest.key for digest in summary.contents)
    assert all(is_cas_key(key) for key in stored)


@pytest.mark.django_db
def test_both_layouts_hold_the_same_collection(disk_store: BlobStore) -> None:
    older = load_tiny(Layout.LEGACY)
    before = rows()
    Part.objects.all().delete()
    newer = load_tiny(Layout.CAS)
    assert sorted(map(str, rows())) == sorted(map(str, before))
    assert newer.contents == older.contents


@pytest.mark.django_db
def test_every_parts_cover_is_its_first_image(disk_store: BlobStore) -> None:
    load_tiny(Layout.LEGACY, parts=8)
    for part in Part.objects.all():
        images = part.attachments.filter(attachment_type="image").order_by("id")
        assert part.cover_attachment == images.first()
    assert Part.objects.filter(cover_attachment__isnull=False).exists()


@pytest.mark.django_db
@pytest.mark.parametrize("layout", list(Layout))
def test_loading_twice_adds_nothing(layout: Layout, disk_store: BlobStore) -> None:
    load_tiny(layout)
    before = rows(), sorted(stat.key for stat in disk_store.scan(""))
    again = load_tiny(layout)
    assert (again.parts_added, again.parts_present, again.files) == (0, 6, 0)
    assert (rows(), sorted(stat.key for stat in disk_store.scan(""))) == before


@pytest.mark.django_db
def test_a_smaller_collection_grows_into_the_larger_one(disk_store: BlobStore) -> None:
    load_tiny(Layout.CAS, parts=3)
    assert load_tiny(Layout.CAS, parts=5).parts_added == 2
    grown = rows()
    Part.objects.all().delete()
    load_tiny(Layout.CAS, parts=5)
    assert sorted(map(str, rows())) == sorted(map(str, grown))


@pytest.mark.django_db
def test_parts_that_are_not_of_the_sample_are_left_alone(disk_store: BlobStore) -> None:
    first = next(collection(1, 1))
    keys = first.candidate_keys()
    mine = Part.objects.create(key=next(keys), description="mine", manufacturer_code="own")
    load_tiny(Layout.CAS, parts=2)
    mine.refresh_from_db()
    assert (mine.description, mine.attachments.count()) == ("mine", 0)
    assert Part.objects.get(key=next(keys)).manufacturer_code == first.item.code
    assert load_tiny(Layout.CAS, parts=2).parts_added == 0


@pytest.mark.django_db
def test_two_parts_of_the_sample_that_draw_the_same_key_both_find_one(
    disk_store: BlobStore,
) -> None:
    seed, number = SEED_OF_A_CLASH
    keys = [next(part.candidate_keys()) for part in collection(number, seed)]
    assert len(set(keys)) == number - 1, "this seed no longer draws a key twice"
    for added in (number, 0):
        assert load_tiny(Layout.CAS, parts=number, seed=seed).parts_added == added
        assert Part.objects.count() == number


@pytest.mark.django_db
def test_every_loaded_part_is_found_by_its_code(disk_store: BlobStore) -> None:
    load_tiny(Layout.CAS, parts=3)
    for part in Part.objects.all():
        assert part.manufacturer_code.casefold() in part.search_text


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("layout", "method"), [(Layout.LEGACY, "put_legacy"), (Layout.CAS, "create")]
)
def test_a_part_whose_bytes_cannot_be_stored_is_not_there(
    layout: Layout, method: str, disk_store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = attachment_store()
    real = getattr(store, method)
    calls = []

    def failing(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 5:
            raise Unreachable("gone")
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(store, method, failing)
        with pytest.raises(Unreachable):
            load_tiny(layout)
    for row in Attachment.objects.exclude(attachment_type="url"):
        assert row.s3_key
        assert store.stat(row.s3_key).size == row.file_size
    stopped = Part.objects.count()
    assert 0 < stopped < 6
    assert not list(store.staging_dir.iterdir()), "drawn files were left in staging"
    assert load_tiny(layout).parts_added == 6 - stopped


@pytest.mark.django_db
def test_the_command_says_what_it_did(
    disk_store: BlobStore, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--layout", "legacy", "--parts", "3", "--megapixels", str(TINY)]
    call_command("load_sample", *arguments)
    assert "3 parts added, 0 were there already." in capsys.readouterr().out
    call_command("load_sample", *arguments)
    assert "0 parts added, 3 were there already." in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["--parts", "0"], ["--megapixels", "99"], ["--layout", "x"], ["--workers", "0"]]
)
def test_the_command_refuses_what_makes_no_sense(arguments: list[str]) -> None:
    with pytest.raises(CommandError):
        call_command("load_sample", *arguments)


@pytest.mark.django_db
def test_the_command_reports_a_store_that_fails(
    disk_store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*arguments: Any) -> None:
        raise Unreachable("the store does not answer")

    monkeypatch.setattr(attachment_store(), "put_legacy", unreachable)
    with pytest.raises(CommandError, match="does not answer"):
        call_command("load_sample", "--layout", "legacy", "--parts", "1", "--megapixels", str(TINY))
    assert Part.objects.count() == 0


@pytest.mark.django_db
def test_an_interrupted_load_says_how_to_go_on(
    disk_store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = disk_store.put_legacy, []

    def interrupted(key: str, source: Path) -> None:
        calls.append(key)
        if len(calls) == 4:
            raise KeyboardInterrupt
        real(key, source)

    arguments = ["--layout", "legacy", "--parts", "4", "--megapixels", str(TINY)]
    with monkeypatch.context() as patch:
        patch.setattr(attachment_store(), "put_legacy", interrupted)
        with pytest.raises(CommandError, match="goes on where it was") as stopped:
            call_command("load_sample", *arguments)
    assert stopped.value.returncode == 130
    present = Part.objects.count()
    assert 0 < present < 4
    call_command("load_sample", *arguments)
    assert Part.objects.count() == 4
