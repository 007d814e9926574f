"""From the bytes of a request to a staged upload that is known to be acceptable.

The handler hashes and counts while Django parses the request, for the API and the admin alike,
into a file on the blobs' own filesystem: storing it is then a rename, not a second copy. `stage`
decides what was received and under which name it is kept. No part of a body is left out in silence:
Django does so where it cannot read a part's header, and replaces what is not UTF-8.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
import unicodedata
import uuid
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from django.conf import settings
from django.core.files.uploadedfile import UploadedFile
from django.core.files.uploadhandler import FileUploadHandler
from django.http import HttpRequest, multipartparser
from django.http.multipartparser import RAW, MultiPartParserError
from rest_framework.exceptions import ParseError
from rest_framework.parsers import MultiPartParser

from attachments.models import Attachment
from cas.content_types import ACCEPTED, FORMATS, HEAD, sniff
from cas.digest import Hasher
from cas.storage import attachment_store
from cas.storage.base import Staged, StoreError, file_errors, store_error
from cas.storage.staging import remove_unused_staging
from cas.thumbnails.cache import Busy
from cas.thumbnails.limits import TooExpensive, TooManyPixels, Unrenderable
from cas.thumbnails.render import check

logger = logging.getLogger(__name__)

MULTIPART_OVERHEAD = 1024 * 1024
"""Bytes of a request that are not the file: boundaries, part headers, a title."""

MAX_NAME_BYTES = 200

TIDY_SECONDS = 600

_JOINERS = "\u200c\u200d"
_DEVICES = {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"} | {
    f"{port}{number}" for port in ("COM", "LPT") for number in "123456789¹²³"
}


class UploadRefused(Exception):
    """An upload that cannot be accepted. `status` is the HTTP status that says so."""

    status = 400
    code = "upload_refused"


class EmptyFile(UploadRefused):
    """The file is empty."""

    code = "empty_file"


class TooLarge(UploadRefused):
    """The file is larger than this installation accepts."""

    status = 413
    code = "file_too_large"


class UnsupportedType(UploadRefused):
    """The file has no accepted format (`cas.content_types`), or cannot be opened."""

    status = 415
    code = "unsupported_type"


class ImageTooLarge(UploadRefused):
    """The image has more pixels than this installation decodes."""

    status = 422
    code = TooManyPixels.code


class ImageTooExpensive(UploadRefused):
    """Showing the image takes more time or memory than a picture may."""

    status = 422
    code = TooExpensive.code


class TooBusy(UploadRefused):
    """So many images are being decoded that this one could not be looked at in time."""

    status = 503
    code = Busy.code


def remove_abandoned() -> None:
    """Delete what crashes left in the staging directory, which fills up else."""
    try:
        for left in remove_unused_staging(attachment_store().staging_dir):
            logger.info("deleted what a crash had left: %s", left)
    except (StoreError, OSError) as error:
        # Serving can do without; a later upload or collection deletes them.
        logger.warning("what crashes left in the staging directory stays there: %s", error)


@dataclass(frozen=True, slots=True)
class StagedUpload:
    """An acceptable upload: its bytes, and what its row will say about them."""

    staged: Staged
    filename: str
    content_type: str
    kind: Attachment.Kind


class ReceivedFile(UploadedFile):  # type: ignore[type-arg] # generic in the stubs only
    """A received file: staged in full, or the fault that kept it from being staged.

    A fault is kept, not raised, so that the rest of the request is still read and the client
    gets an answer instead of a broken connection; `stage` raises it. Closing removes the file.
    """

    def __init__(self, file: IO[bytes], name: str, staged: Staged, fault: Exception | None) -> None:
        super().__init__(file, name, "application/octet-stream", staged.size)
        self.staged = staged
        self.fault = fault

    def temporary_file_path(self) -> str:
        return str(self.staged.path)

    def close(self) -> None:
        # What cannot be deleted now is deleted with what crashes leave.
        with contextlib.suppress(OSError):
            self.staged.path.unlink()
        if self.file is not None:
            self.file.close()


class HashingUploadHandler(FileUploadHandler):
    """Stages each file of a multipart request, hashed on the way, in flat memory."""

    chunk_size = 256 * 1024

    tidied = 0.0
    """When this process last looked for what crashes left, by the monotonic clock."""

    def handle_raw_input(
        self,
        input_data: Any,
        META: Any,
        content_length: int,
        boundary: str,
        encoding: str | None = None,
    ) -> None:
        self.hopeless = content_length > settings.INVENTORY_MAX_UPLOAD_BYTES + MULTIPART_OVERHEAD
        if self.request is not None:
            self._end_with(self.request)
        now, ours = time.monotonic(), HashingUploadHandler
        if not ours.tidied or now >= ours.tidied + TIDY_SECONDS:
            ours.tidied = now
            remove_abandoned()

    def _end_with(self, request: HttpRequest) -> None:
        """Remove an unfinished file when the request is closed.

        If reading the request raises, as when the connection breaks, Django closes the files that
        were complete, and no handler is told.
        """
        close = request.close

        def close_all() -> None:
            close()
            self.upload_interrupted()

        request.close = close_all  # type: ignore[method-assign]

    def new_file(self, *args: Any, **kwargs: Any) -> None:
        super().new_file(*args, **kwargs)
        self.hasher = Hasher()
        self.fault: Exception | None = None
        self.path = Path()
        self.staging: IO[bytes] = BytesIO()
        try:
            self.path = attachment_store().staging_dir / f"upload-{uuid.uuid4().hex}"
            # Readable to the web server beside us, which may deliver the blob this file becomes.
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
            # Unbuffered: bytes that found no room would be tried again by whatever came next.
            self.staging = os.fdopen(descriptor, "w+b", buffering=0)
        except OSError as error:
            self._give_up(store_error(error))
        except StoreError as error:
            self._give_up(error)
        if self.hopeless:
            limit = settings.INVENTORY_MAX_UPLOAD_BYTES
            self._give_up(TooLarge(f"what was sent at once is larger than {limit:,} bytes"))

    def receive_data_chunk(self, raw_data: bytes, start: int) -> None:
        if self.fault:
            return
        limit = settings.INVENTORY_MAX_UPLOAD_BYTES
        if self.hasher.size + len(raw_data) > limit:
            self._give_up(TooLarge(_too_large(limit)))
            return
        self.hasher.update(raw_data)
        rest = memoryview(raw_data)
        try:
            while rest:
                rest = rest[self.staging.write(rest) :]
        except OSError as error:
            self._give_up(store_error(error))

    def file_complete(self, file_size: int) -> ReceivedFile:
        self.staging.seek(0)
        staged = Staged(self.path, self.hasher.digest, self.hasher.md5, self.hasher.size)
        return ReceivedFile(self.staging, self.file_name or "", staged, self.fault)

    def upload_interrupted(self) -> None:
        if hasattr(self, "staging"):
            self.staging.close()
            with contextlib.suppress(OSError):
                self.path.unlink()

    def _give_up(self, fault: Exception) -> None:
        self.fault = fault
        # What was written is of no use to anybody: give the room back at once.
        with contextlib.suppress(OSError):
            self.staging.truncate(0)


class StrictMultiPartParser(MultiPartParser):
    """Multipart bodies (RFC 7578) whose names and values are UTF-8. Raises ParseError."""

    def parse(self, *args: Any, **kwargs: Any) -> Any:
        parsed = super().parse(*args, **kwargs)
        for name, values in parsed.data.lists():
            if any("\ufffd" in text for text in (name, *values)):
                raise ParseError(f"The value of {name} is not UTF-8.")
        for name, files in parsed.files.lists():
            if any("\ufffd" in (file.name or "") for file in files):
                raise ParseError(f"The file name of {name} is not UTF-8.")
        return parsed


_read_part = multipartparser.parse_boundary_stream  # type: ignore[attr-defined]


def _read_named_part(stream: Any, max_header_size: int) -> Any:
    """A part as Django reads it. Raises MultiPartParserError where it would leave it out."""
    start = stream.read(max_header_size)
    stream.unget(start)
    header, end, _content = start.partition(b"\r\n\r\n")
    try:
        header.decode()
    except UnicodeDecodeError as error:
        if end:
            raise MultiPartParserError("A name in the body is not UTF-8.") from error
    part = _read_part(stream, max_header_size)
    if end and part[0] == RAW:
        raise MultiPartParserError("A part of the body has no name that can be read.")
    return part


# There is no other place to put this: the parser finds the function in its own module.
multipartparser.parse_boundary_stream = _read_named_part  # type: ignore[attr-defined]


def stage(received: ReceivedFile) -> StagedUpload:
    """Decide what was received. Raises UploadRefused, or the StoreError staging met."""
    if received.fault:
        raise received.fault
    staged = received.staged
    if staged.size == 0:
        raise EmptyFile("the file is empty")
    with file_errors(staged.digest.key), staged.path.open("rb") as stream:
        found = sniff(stream.read(HEAD))
    if found is None:
        raise UnsupportedType(f"only {ACCEPTED} are accepted")
    if found.max_pixels:
        _check_size(staged.size, settings.INVENTORY_MAX_IMAGE_BYTES)
        _check_picture(staged)
        kind = Attachment.Kind.IMAGE
    else:
        _check_size(staged.size, settings.INVENTORY_MAX_PDF_BYTES)
        kind = Attachment.Kind.PDF
    filename = safe_name(received.name or "", found.content_type)
    return StagedUpload(staged, filename, found.content_type, kind)


def safe_name(name: str, content_type: str) -> str:
    """A base name that every file system and header can carry, Unicode kept.

    Directories, control and invisible formatting characters (which can make `gpj.exe` read as
    `exe.jpg`) and what file systems forbid are dropped; joiners, which spell words, and quotation
    marks stay, which browsers send as %22. An extension that does not belong to the content type
    gets the right one appended, so that a saved file opens as what it is. Windows' names of devices
    get a `_`.
    """
    base = unicodedata.normalize("NFC", name).replace("\\", "/").rsplit("/", 1)[-1]
    kept = "".join(c for c in base.replace("%22", '"') if _may_be_in_a_name(c))
    kept = " ".join(kept.split()).rstrip(". ")
    extensions = FORMATS[content_type].extensions if content_type in FORMATS else ()
    stem, dot, extension = kept.rpartition(".")
    if extensions and not (dot and f".{extension.lower()}" in extensions):
        stem, extension = kept, extensions[0].removeprefix(".")
    elif not dot:
        stem, extension = kept, ""
    stem = stem.strip(". ")
    if extensions and not stem.strip(_JOINERS):
        stem = "attachment"
    first, dot, rest = stem.partition(".")
    if first.rstrip().upper() in _DEVICES:
        stem = f"{first.rstrip()}_{dot}{rest}"
    room = MAX_NAME_BYTES - len(extension.encode()) - 1
    stem = stem.encode()[:room].decode(errors="ignore").rstrip(". ")
    return f"{stem}.{extension}" if extension else stem


def _may_be_in_a_name(character: str) -> bool:
    if character in _JOINERS:
        return True
    return unicodedata.category(character)[0] != "C" and character not in "<>:|?*"


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise TooLarge(_too_large(limit))


def _too_large(limit: int) -> str:
    return f"the file is larger than {limit:,} bytes, the most that is accepted"


def _check_picture(staged: Staged) -> None:
    """Make its thumbnail; none is not accepted. Raises UploadRefused and StoreError."""
    try:
        with file_errors(staged.digest.key):
            check(staged.digest.hex, lambda: staged.path.open("rb", buffering=0))
    except TooManyPixels as error:
        raise ImageTooLarge(f"the image has {error}") from error
    except TooExpensive as error:
        raise ImageTooExpensive(f"the image cannot be shown: {error}") from error
    except Unrenderable as error:
        raise UnsupportedType(f"the file starts like an image, but {error}") from error
    except Busy as error:
        raise TooBusy("too many images are being checked; please try again soon") from error
