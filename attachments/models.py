"""Attachment rows, and what rows have in common: folded columns, and versions.

The table and its columns are the older installation's, but for those. Folded text is what is
compared, searched and sorted by: SQLite and PostgreSQL each fold and sort in a way of their own, so
each row keeps its texts in folded form too.
"""

from __future__ import annotations

import hashlib
import logging
import re
import unicodedata
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from django.db import models, transaction
from django.db.models import F, Q, QuerySet
from django.db.models.functions import Lower
from django.urls import reverse
from django.utils import timezone

from attachments.object_keys import KeyKind, ObjectKeyField
from cas.conf import THUMBNAIL_SIZE
from cas.content_types import FORMATS, UNTYPED
from cas.digest import CAS_KEY, Digest, MalformedDigest, is_cas_key
from cas.signed_urls import (
    BlobQuery,
    ThumbnailQuery,
    blob_query,
    blob_url,
    public_url,
    thumbnail_url,
)

if TYPE_CHECKING:
    TextField = models.TextField[str, str]
else:
    TextField = models.TextField

logger = logging.getLogger(__name__)

LEGACY_PREFIX = "parts/"

PICTURE_TYPES = UNTYPED.union(
    *((found.content_type, *found.aliases) for found in FORMATS.values() if found.max_pixels)
)
"""Content types of rows whose bytes are shown as a picture, as far as the row can tell.

A row whose type was never identified has one until it is migrated, which identifies it.
"""


_SPELLED: Final = {
    "\u03bc": "u",  # Greek mu, which the micro sign is turned into: u stands for micro.
    "\u00e6": "ae",
    "\u0153": "oe",
    "\u0131": "i",
    "\u2212": "-",
    "\u02d7": "-",
    "\u2043": "-",
}
_SHOWN_FORMATS: Final = re.compile("[\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd]")
"""Format characters that are seen, as signs of numbers."""

_UNSEEN: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]"
)
"""Characters of other categories that Unicode lets a display ignore."""

_STROKED: Final = re.compile(
    r"LATIN SMALL LETTER ([A-Z]) WITH (?:DIAGONAL |OBLIQUE |SHORT |LONG |DOUBLE )?(?:STROKE|BAR)\b"
)
_LATIN: Final = (
    range(0x80, 0x2B0), range(0x1D00, 0x1F00), range(0x2C60, 0x2C80), range(0xA720, 0xA800)
)  # fmt: skip


def _stroked() -> dict[str, str]:
    """Letters with a stroke, which Unicode does not decompose, and their bases."""
    found = {}
    for block in _LATIN:
        for character in map(chr, block):
            if match := _STROKED.match(unicodedata.name(character, "")):
                found[character] = match[1].lower()
    return found


_TABLE: Final = str.maketrans(_stroked() | _SPELLED)


def fold(text: str) -> str:
    """The text without case, accents, strokes, invisible characters and compatibility forms.

    All dashes and minus signs become a hyphen; µ, μ and u the same letter. A character may become
    several.
    """
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return "".join(filter(None, map(_folded, decomposed))).casefold().translate(_TABLE)


def _folded(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Pd":
        return "-"
    if category == "Cf":
        return character if _SHOWN_FORMATS.match(character) else ""
    if unicodedata.combining(character) or _UNSEEN.match(character):
        return ""
    return character


def shortened(text: str, limit: int) -> str:
    """A text of at most `limit` characters that is another one for each other text."""
    if len(text) <= limit:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()
    return text[: limit - len(digest)] + digest


class FoldedField(TextField):
    """The folded text of other columns of the same row, a line each so that no word spans two.

    It is made whenever the row is written. A write of some columns must name this one as well, of a
    row that was read under its lock; `Versioned.save` does. Sorted by code point
    on both databases. `limit`, in characters, is for a column with an index: a longer text is cut,
    and its end is a checksum of the whole.
    """

    def __init__(self, *sources: str, limit: int | None = None, **kwargs: Any) -> None:
        self.sources = sources
        self.limit = limit
        super().__init__(**{"blank": True, "default": "", "editable": False, **kwargs})

    def of(self, *texts: str) -> str:
        """The folded form of these texts, as it is stored; runs of white space are one space."""
        text = "\n".join(" ".join(fold(text).split()) for text in texts)
        return text if self.limit is None else shortened(text, self.limit)

    def pre_save(self, model_instance: Any, add: bool) -> str:
        text = self.of(*(getattr(model_instance, name) or "" for name in self.sources))
        setattr(model_instance, self.attname, text)
        return text

    def db_parameters(self, connection: Any) -> Any:
        # SQLite sorts by code point unless told otherwise, and knows no collation of this name.
        collation = "C" if connection.vendor == "postgresql" else None
        return {**super().db_parameters(connection), "collation": collation}

    def deconstruct(self) -> Any:
        name, path, args, kwargs = super().deconstruct()
        if self.limit is not None:
            kwargs["limit"] = self.limit
        return name, path, [*args, *self.sources], kwargs


def folded_fields(model: type[models.Model]) -> list[FoldedField]:
    """Those of a model."""
    return [field for field in model._meta.concrete_fields if isinstance(field, FoldedField)]


SEARCH_TEXT: Final = FoldedField("title", "filename")


class ChangedMeanwhile(Exception):
    """The row was changed since it was read; nothing was written."""


class Versioned(models.Model):
    """A row whose `version` counts the writes that changed what clients see of it."""

    # The database's default is for the processes of an earlier release during an upgrade.
    version = models.PositiveIntegerField(default=1, db_default=1, editable=False)

    class Meta:
        abstract = True

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Raises ChangedMeanwhile, and DoesNotExist for a row that was deleted meanwhile."""
        if self._state.adding:
            super().save(*args, **kwargs)
            return
        if (fields := kwargs.get("update_fields")) is not None:
            folded = (field.name for field in folded_fields(type(self)))
            kwargs["update_fields"] = {*fields, "version", *folded}
        with transaction.atomic():
            stored = type(self)._base_manager.select_for_update(no_key=True).filter(pk=self.pk)
            version = stored.values_list("version", flat=True).first()
            if version is None:
                raise type(self).DoesNotExist(f"{self._meta.verbose_name} {self.pk} was deleted")
            if version != self.version:
                raise ChangedMeanwhile(
                    f"{self._meta.verbose_name} {self.pk} has the version {version} by now, "
                    f"{self.version} was read"
                )
            self.version += 1
            try:
                super().save(*args, **{**kwargs, "force_update": True})
            except BaseException:
                self.version -= 1
                raise


def raise_versions(rows: QuerySet[Any]) -> int:
    """What clients see of these rows has changed. Returns how many there are."""
    return rows.update(version=F("version") + 1)


class AttachmentQuerySet(models.QuerySet["Attachment"]):
    def migrated(self) -> Self:
        """Rows whose key is exactly `cas/<digest>`; `Attachment.digest` is set for the same."""
        return self.filter(s3_key__regex=CAS_KEY)

    def unmigrated(self) -> Self:
        """Rows that have another key, malformed ones included: still to be migrated."""
        return self.filter(s3_key__isnull=False).exclude(s3_key__regex=CAS_KEY)

    def referencing(self, digests: Iterable[Digest]) -> Self:
        """Rows that point at one of these blobs."""
        return self.filter(s3_key__in=[digest.key for digest in digests])

    def pictures(self) -> Self:
        """Rows that have a picture; what `Attachment.has_picture` says of one."""
        plain = Q(content_type__isnull=True) | Q(type_name__in=PICTURE_TYPES)
        rows = self.exclude(attachment_type=Attachment.Kind.PDF).exclude(s3_key__isnull=True)
        return rows.alias(type_name=Lower("content_type")).filter(plain)


class Recorded(NamedTuple):
    """What the history keeps of a table's rows; see `attachments.history`.

    `part` is an SQL expression for the id of the part that a row belongs to, and `values` has such
    expressions by name; in each `{row}` stands for OLD or NEW. A change of one of the columns
    `edits` is an edit; one of `touches` alone is noted, without values, for those who keep a copy.
    """

    table: str
    part: str
    values: dict[str, str]
    edits: tuple[str, ...]
    touches: tuple[str, ...] = ()


class Links(NamedTuple):
    """URLs of an attachment's bytes; each None where there is nothing to link to."""

    download: str | None = None
    view: str | None = None
    thumbnail: str | None = None


class Attachment(Versioned):
    """A photo, a PDF datasheet or a link that belongs to a part.

    `s3_key` is the object's key in the store: `cas/<digest>`, or an older installation's
    `parts/{part_id}/attachments/{uuid}.{ext}` until it is migrated. Only
    `attachments.references` writes it. `file_size` is in bytes. `migrated_at` is when the row was
    moved from an older key to its blob.

    A link may have an object too, its preview picture; what an older installation did not record
    of that (size, content type) is known once the row is migrated. A file may have a `url`, from
    which it was fetched.
    """

    class Kind(models.TextChoices):
        URL = "url", "link"
        IMAGE = "image", "image"
        PDF = "pdf", "PDF"

    part = models.ForeignKey("parts.Part", on_delete=models.CASCADE, related_name="attachments")
    attachment_type = models.CharField("type", max_length=20, choices=Kind)
    title = models.CharField(max_length=255)
    s3_key = ObjectKeyField(
        max_length=500,
        null=True,
        blank=True,
        db_index=True,
        editable=False,
        kind=KeyKind.REFERENCE,
    )
    url = models.URLField(max_length=2000, null=True, blank=True)  # noqa: DJ001
    filename = models.CharField(max_length=255, null=True, blank=True)  # noqa: DJ001
    content_type = models.CharField(max_length=100, null=True, blank=True)  # noqa: DJ001
    file_size = models.BigIntegerField("size", null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)
    migrated_at = models.DateTimeField(null=True, blank=True, editable=False)
    # The database's default is for the processes of an earlier release during an upgrade.
    search_text = FoldedField("title", "filename", db_default="")

    objects = AttachmentQuerySet.as_manager()

    class Meta:
        db_table = "part_attachments"
        ordering = ["id"]
        indexes = [
            # For a migration, which must know of each row whether one with the same object comes
            # before it: where many share a few objects, PostgreSQL otherwise reads all rows.
            models.Index(fields=["s3_key", "file_size", "id"], name="attachment_same_object"),
        ]
        constraints = [
            models.CheckConstraint(
                condition=~Q(attachment_type="url") | (Q(url__isnull=False) & ~Q(url="")),
                name="attachment_url_row_has_url",
            ),
            models.CheckConstraint(
                condition=Q(attachment_type="url")
                | (
                    Q(s3_key__isnull=False, filename__isnull=False, content_type__isnull=False)
                    & Q(file_size__isnull=False)
                    & ~Q(s3_key="")
                    & ~Q(filename="")
                    & ~Q(content_type="")
                ),
                name="attachment_file_row_is_complete",
            ),
            models.CheckConstraint(
                condition=Q(s3_key__isnull=True) | ~Q(s3_key=""),
                name="attachment_key_is_not_empty",
            ),
            models.CheckConstraint(
                condition=Q(attachment_type__in=["url", "image", "pdf"]),
                name="attachment_type_is_known",
            ),
            models.CheckConstraint(
                condition=Q(file_size__isnull=True) | Q(file_size__gte=0),
                name="attachment_size_not_negative",
            ),
            # What a cover's composite foreign key refers to (see parts.models.Part).
            models.UniqueConstraint(fields=["id", "part"], name="attachment_id_part_unique"),
        ]

    def __str__(self) -> str:
        return self.title or self.filename or self.url or f"attachment {self.pk}"

    @classmethod
    def recorded(cls) -> list[Recorded]:
        """A migration is no edit: the key, and what the bytes tell, are no more than touches."""
        edits = ("title", "attachment_type", "url", "filename")
        return [
            Recorded(
                table=cls._meta.db_table,
                part="{row}.part_id",
                values={name: f"{{row}}.{name}" for name in edits},
                edits=("part_id", *edits),
                touches=("version", "s3_key", "content_type", "file_size"),
            )
        ]

    def rename(self, title: str) -> bool:
        """Write another title, and nothing else. False if the row is gone.

        Saving the whole row would put back the key it was read with, over a migration that has
        moved the row meanwhile, and would insert again a row that was deleted.
        """
        self.title, self.updated_at = title, timezone.now()
        # A row's file name never changes.
        changes = {
            "title": title,
            "search_text": SEARCH_TEXT.of(title, self.filename or ""),
            "updated_at": self.updated_at,
            "version": F("version") + 1,
        }
        if not type(self).objects.filter(pk=self.pk).update(**changes):
            return False
        self.refresh_from_db(fields=["version", "search_text"])
        return True

    @property
    def is_file(self) -> bool:
        return self.attachment_type != self.Kind.URL

    @property
    def has_picture(self) -> bool:
        """Whether there are bytes that are shown as a picture, and that can be a cover."""
        return (
            self.attachment_type != self.Kind.PDF
            and self.s3_key is not None
            and (self.content_type or "").lower() in PICTURE_TYPES
        )

    @property
    def digest(self) -> Digest | None:
        """The blob's digest, or None for a row without one or that is not migrated yet."""
        try:
            return Digest.from_key(self.s3_key or "")
        except MalformedDigest:
            return None

    @property
    def is_legacy(self) -> bool:
        """Whether the row still points at an object of the older layout."""
        key = self.s3_key or ""
        return key.startswith(LEGACY_PREFIX) and not is_cas_key(key)

    def links(self) -> Links:
        """A link has at most a thumbnail; what is no picture has none; a row on its old key has
        transitional URLs.

        A key that is neither form is an integrity error: it is logged and yields no URLs, so that
        one damaged row does not take a whole list of parts down.
        """
        if self.s3_key is None and not self.is_file:
            return Links()
        if self.digest is None and not self.is_legacy:
            logger.error(
                "integrity error: attachment %s has the key %r, which is neither a CAS key nor one "
                "of the older layout",
                self.pk,
                self.s3_key,
            )
            return Links()
        small = self.thumbnail_url(THUMBNAIL_SIZE) if self.has_picture else None
        if not self.is_file:
            return Links(thumbnail=small)
        return Links(
            download=self.content_url("attachment"),
            view=self.content_url("inline"),
            thumbnail=small,
        )

    def content_url(self, disposition: str) -> str:
        """The URL of a file's bytes. `disposition` is `inline` or `attachment` (RFC 6266)."""
        content_type, filename = self.content_type or "", self.filename or ""
        if self.digest is not None:
            return blob_url(
                self.digest,
                content_type=content_type,
                disposition=disposition,
                filename=filename,
            )
        return self._transitional_url(blob_query(content_type, disposition, filename))

    def thumbnail_url(self, size: int) -> str:
        """The URL of an image's thumbnail that fits into `size` pixels squared."""
        if self.digest is not None:
            return thumbnail_url(self.digest, size)
        return self._transitional_url(ThumbnailQuery(size))

    def _transitional_url(self, query: BlobQuery | ThumbnailQuery) -> str:
        path = reverse("attachment-content", args=[self.part.key, self.pk])
        return public_url(path, path, query)


class Change(models.Model):
    """One change of a row: written by the triggers of `attachments.history`, and by nothing else.

    `before` and `after` are what was recorded of the row; both are null for a touch, which changed
    what clients see without being an edit, and for the mark that a pruning leaves. `actor` is an
    account, with the token it used, or a command. `part_id` is the part that the row belongs to. In
    the order of `transaction_id` and `id`, what is finished stays before what is not (see
    `parts.updates`).
    """

    class Action(models.TextChoices):
        INSERT = "insert", "added"
        UPDATE = "update", "changed"
        DELETE = "delete", "deleted"
        TOUCH = "touch", "touched"
        PRUNED = "pruned", "pruned up to here"

    table_name = models.CharField(max_length=63)
    row_id = models.BigIntegerField()
    part_id = models.BigIntegerField(null=True)
    action = models.CharField(max_length=10, choices=Action)
    at = models.DateTimeField()
    actor = models.CharField(max_length=255, blank=True)
    before = models.JSONField(null=True)
    after = models.JSONField(null=True)
    transaction_id = models.BigIntegerField()

    class Meta:
        db_table = "changes"
        ordering = ("transaction_id", "id")
        indexes = [
            models.Index(fields=["transaction_id", "id"], name="change_order"),
            models.Index(fields=["part_id", "id"], name="change_of_part"),
        ]

    def __str__(self) -> str:
        return f"{self.table_name} {self.row_id} {self.action}"


class Verification(models.Model):
    """When a blob's bytes were last compared with its digest, and in which version.

    `etag` is empty where it was never verified in a version that is known. A row here is no
    reference, and losing the table loses nothing but the memory of what was verified.
    """

    digest = models.CharField(max_length=64, primary_key=True)
    verified_at = models.DateTimeField()
    etag = models.CharField(max_length=255, blank=True)

    class Meta:
        db_table = "blob_verifications"
        indexes = [
            models.Index(fields=["verified_at", "digest"], name="blob_verification_order"),
        ]

    def __str__(self) -> str:
        return self.digest


class PendingDeletion(models.Model):
    """A tombstone: this blob is being deleted, or was when the run that did it ended; see `locks`.

    `since` is by the database's clock. A row here is no reference.
    """

    digest = models.CharField(max_length=64, primary_key=True)
    since = models.DateTimeField()

    class Meta:
        db_table = "pending_deletions"

    def __str__(self) -> str:
        return self.digest
