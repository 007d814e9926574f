"""The sample collection: planned from the seed alone, made the same everywhere, loaded safely."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from django.core.management import CommandError, call_command
from django.core.validators import URLValidator
from PIL import Image, ImageChops, ImageOps, ImageStat

from attachments.models import Attachment
from cas.digest import Digest, is_cas_key
from cas.storage import attachment_store
from cas.storage.base import BlobStore, Unreachable
from parts.models import Part
from parts.sample.files import MEGAPIXELS, Datasheet, Photo
from parts.sample.load import (
    SAMPLE_DATA,
    Layout,
    LoadSummary,
    Media,
    SamplePart,
    catalogue,
    collection,
    load,
)

TINY = 0.02
"""Megapixels: enough to tell a picture from an empty one."""

FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}

SEED_OF_A_CLASH = (17214, 6)
"""A seed, and how many of its first parts there must be for two to draw the same key."""

ROOT = Path(__file__).resolve().parents[2]


def load_tiny(layout: Layout, parts: int = 6, seed: int = 1) -> LoadSummary:
    return load(layout, parts, seed, TINY, 2, lambda summary: None)


def parts_before(failing: int, parts: int) -> int:
    """How many of the first parts are stored in full before this many-th file is."""
    files = 0
    for position, part in enumerate(collection(parts, 1)):
        files += len(media([part]))
        if files >= failing:
            return position
    raise AssertionError("there are not so many files")


def media(parts: list[SamplePart]) -> list[Media]:
    contents = [file.content for part in parts for file in part.attachments]
    return [content for content in contents if not isinstance(content, str)]


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
        assert set(part.columns) - {"type", "tags"} <= set(limits)
        for name, value in part.columns.items():
            assert len(value) <= (limits.get(name) or len(value)), (name, value)
        for name in ("description", "manufacturer_code", "type", "tags"):
            assert part.columns[name], part
        assert int(part.columns["pin_count"]) > 0
        assert len(part.columns["tags"].split()) == len(set(part.columns["tags"].split()))
        links = [file.content for file in part.attachments if isinstance(file.content, str)]
        for url in (part.columns["product_page"], part.columns["seller_link"], *links):
            check(url)
        assert all(len(file.title) <= 255 for file in part.attachments)


# The catalogue


def test_no_two_items_of_the_catalogue_share_a_code() -> None:
    codes = [(item["manufacturer"], item["manufacturer_code"]) for item in catalogue()]
    assert len(codes) == len(set(codes))
    assert len(codes) > 900


def test_the_catalogue_names_every_file_there_is_and_no_other() -> None:
    named = {f"datasheets/{item['datasheet']}" for item in catalogue()}
    for item in catalogue():
        assert item["photos"]
        named |= {f"photos/{name}" for name in (item["packet"], *item["photos"].split())}
    files = [path for path in SAMPLE_DATA.glob("*/*") if path.is_file()]
    assert {path.relative_to(SAMPLE_DATA).as_posix() for path in files} == named
    assert sum(path.stat().st_size for path in files) < 8e6


def test_items_of_different_types_show_different_things() -> None:
    """A photo belongs to one kind of part, or to kinds that share a package."""
    types: dict[str, set[str]] = {}
    for item in catalogue():
        for name in item["photos"].split():
            types.setdefault(name, set()).add(item["type"])
    shared = {name for name, found in types.items() if len(found) > 1}
    assert shared == {"dip-8.jpg", "soic-8.jpg", "to-220.jpg", "to-92.jpg"}


def test_the_pictures_have_several_megapixels_and_open() -> None:
    for path in (SAMPLE_DATA / "photos").iterdir():
        with Image.open(path, formats=["JPEG"]) as image:
            assert image.width * image.height > 3e6, path
            image.draft("RGB", (300, 200))
            image.load()
            assert max(ImageStat.Stat(image).stddev) > 8, f"{path} shows nothing"


# The files


def photo(name: str = "photo.jpg", seed: str = "s", **values: Any) -> Photo:
    source = SAMPLE_DATA / "photos" / "dip-8.jpg"
    return Photo(name, source, seed, ("NE555P",), "2020:01:01 12:00:00", **values)


@pytest.mark.parametrize(("extension", "file_format"), FORMATS.items())
@pytest.mark.parametrize("lines", [("CODE-1",), ("Würth", "CODE-1", "QTY 100", "LOT 1")])
def test_photos_are_whole_in_every_format(
    extension: str, file_format: str, lines: tuple[str, ...], tmp_path: Path
) -> None:
    for name, seed in (("first", "a"), ("second", "a"), ("third", "b")):
        made = replace(photo(f"photo.{extension}", seed), lines=lines)
        made.write(tmp_path / name, TINY)
    first, second, third = ((tmp_path / name).read_bytes() for name in ("first", "second", "third"))
    assert first == second != third
    with Image.open(tmp_path / "first", formats=[file_format]) as image:
        image.load()
        assert max(ImageStat.Stat(image.convert("RGB")).stddev) > 8


def test_only_files_that_parts_share_have_the_same_bytes(tmp_path: Path) -> None:
    files = set(media([*collection(30, 1), *collection(30, 2)]))
    digests = set()
    for file in files:
        file.write(tmp_path / "file", 0.01)
        digests.add(Digest.of((tmp_path / "file").read_bytes()))
    assert len(digests) == len(files) > 60


def test_a_photo_is_several_megapixels_by_default(tmp_path: Path) -> None:
    photo().write(tmp_path / "photo", MEGAPIXELS)
    with Image.open(tmp_path / "photo") as image:
        assert 5.5e6 < image.width * image.height < 6.5e6


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_turned_photo_is_upright_once_its_orientation_is_applied(
    orientation: int, tmp_path: Path
) -> None:
    for value in (1, orientation):
        photo(orientation=value).write(tmp_path / str(value), 0.1)
    with Image.open(tmp_path / "1") as upright, Image.open(tmp_path / str(orientation)) as turned:
        assert turned.getexif()[0x0112] == orientation
        shown = ImageOps.exif_transpose(turned)
        assert shown.size == upright.size
        difference = ImageChops.difference(shown.convert("RGB"), upright.convert("RGB"))
        assert max(ImageStat.Stat(difference).mean) < 6


def test_a_real_viewer_opens_every_datasheet(tmp_path: Path) -> None:
    for source in (SAMPLE_DATA / "datasheets").iterdir():
        for edition in ("1", "2"):
            Datasheet("sheet.pdf", source, edition).write(tmp_path / edition, TINY)
        assert (tmp_path / "1").read_bytes() != (tmp_path / "2").read_bytes()
        info = subprocess.run(
            ["pdfinfo", tmp_path / "1"], capture_output=True, text=True, check=True
        )
        assert not info.stderr
        pages = next(line for line in info.stdout.splitlines() if line.startswith("Pages:"))
        assert int(pages.split()[1]) >= 4


def test_a_datasheet_shows_its_pins_and_graphs(tmp_path: Path) -> None:
    (name,) = {item["datasheet"] for item in catalogue() if item["series"] == "ATmega328P"}
    path = tmp_path / "sheet.pdf"
    Datasheet("sheet.pdf", SAMPLE_DATA / "datasheets" / name, "3").write(path, TINY)
    command = ["pdftotext", "-layout", str(path), "-"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for expected in ("PB5/SCK", "Absolute maximum ratings", "Clock frequency", "ATMEGA328P-PU"):
        assert expected in text
    command = ["pdftoppm", "-r", "30", "-f", "3", "-l", "3", "-png", str(path)]
    page = subprocess.run(command, capture_output=True, check=True)
    assert not page.stderr
    with Image.open(io.BytesIO(page.stdout)) as image:
        colours = image.convert("RGB").getcolors(1 << 16) or []
    assert len(colours) > 50, "the page with the graphs is blank"


def test_another_process_makes_the_same_bytes() -> None:
    """Python's hashes differ between processes; nothing made may depend on them."""
    program = (
        "import django, hashlib, sys, tempfile, pathlib\n"
        "django.setup()\n"
        "from parts.sample.load import collection\n"
        "path = pathlib.Path(tempfile.mkdtemp()) / 'file'\n"
        "for part in collection(4, 1):\n"
        "    for file in part.attachments:\n"
        "        if not isinstance(file.content, str):\n"
        "            file.content.write(path, 0.02)\n"
        "            print(hashlib.sha256(path.read_bytes()).hexdigest(), file.title)\n"
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
    summary = load_tiny("legacy")
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
    summary = load_tiny("cas")
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
    older = load_tiny("legacy")
    before = rows()
    Part.objects.all().delete()
    newer = load_tiny("cas")
    assert sorted(map(str, rows())) == sorted(map(str, before))
    assert newer.contents == older.contents


@pytest.mark.django_db
def test_every_parts_cover_is_its_first_image(disk_store: BlobStore) -> None:
    load_tiny("legacy", parts=8)
    for part in Part.objects.all():
        images = part.attachments.filter(attachment_type="image").order_by("id")
        assert part.cover_attachment == images.first()
    assert Part.objects.filter(cover_attachment__isnull=False).exists()


@pytest.mark.django_db
@pytest.mark.parametrize("layout", get_args(Layout))
def test_loading_twice_adds_nothing(layout: Layout, disk_store: BlobStore) -> None:
    load_tiny(layout)
    before = rows(), sorted(stat.key for stat in disk_store.scan(""))
    again = load_tiny(layout)
    assert (again.parts_added, again.parts_present, again.files) == (0, 6, 0)
    assert (rows(), sorted(stat.key for stat in disk_store.scan(""))) == before


@pytest.mark.django_db
def test_a_smaller_collection_grows_into_the_larger_one(disk_store: BlobStore) -> None:
    load_tiny("cas", parts=3)
    assert load_tiny("cas", parts=5).parts_added == 2
    grown = rows()
    Part.objects.all().delete()
    load_tiny("cas", parts=5)
    assert sorted(map(str, rows())) == sorted(map(str, grown))


@pytest.mark.django_db
def test_parts_that_are_not_of_the_sample_are_left_alone(disk_store: BlobStore) -> None:
    first = next(collection(1, 1))
    keys = first.candidate_keys()
    mine = Part.objects.create(key=next(keys), description="mine", manufacturer_code="own")
    load_tiny("cas", parts=2)
    mine.refresh_from_db()
    assert (mine.description, mine.attachments.count()) == ("mine", 0)
    assert Part.objects.get(key=next(keys)).manufacturer_code == first.columns["manufacturer_code"]
    assert load_tiny("cas", parts=2).parts_added == 0


@pytest.mark.django_db
def test_two_parts_of_the_sample_that_draw_the_same_key_both_find_one(
    disk_store: BlobStore,
) -> None:
    seed, number = SEED_OF_A_CLASH
    keys = [next(part.candidate_keys()) for part in collection(number, seed)]
    assert len(set(keys)) == number - 1, "this seed no longer draws a key twice"
    for added in (number, 0):
        assert load_tiny("cas", parts=number, seed=seed).parts_added == added
        assert Part.objects.count() == number


@pytest.mark.django_db
def test_every_loaded_part_is_found_by_its_code(disk_store: BlobStore) -> None:
    load_tiny("cas", parts=3)
    for part in Part.objects.all():
        assert part.manufacturer_code.casefold() in part.search_text


@pytest.mark.django_db
@pytest.mark.parametrize(("layout", "method"), [("legacy", "put_legacy"), ("cas", "create")])
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
    assert stopped == parts_before(failing=5, parts=6)
    assert not list(store.staging_dir.iterdir()), "files were left in staging"
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
    assert present == parts_before(failing=4, parts=4)
    call_command("load_sample", *arguments)
    assert Part.objects.count() == 4
