"""Parts, their types and tags. The table `parts` is the older installation's."""

from __future__ import annotations

import secrets
import string
from typing import TYPE_CHECKING, Any, Final, Self

from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.db import IntegrityError, models, transaction
from django.db.models import Q
from django.db.models.functions import Length

from attachments.locks import lock_rows
from attachments.models import (
    FoldedField,
    Recorded,
    Versioned,
    fold,
    folded_fields,
    raise_versions,
)
from attachments.object_keys import KeyKind, ObjectKeyField
from parts.constraints import CompositeForeignKey

KEY_LENGTH = 4
KEY_ATTEMPTS = 50
TAG_LENGTH = 500
FOLDED_LENGTH = 500
"""Characters of a name to compare and sort by, of which PostgreSQL can keep an index."""

FOLDED_NAME: Final = FoldedField("name", limit=FOLDED_LENGTH)

SORTED_LENGTH = 200
"""Characters that parts are sorted by."""

key_validator = RegexValidator(r"\A[A-Z]{4}\Z", "A key is four uppercase letters.")

models.CharField.register_lookup(Length)


def new_key() -> str:
    return "".join(secrets.choice(string.ascii_uppercase) for _ in range(KEY_LENGTH))


class KeysExhausted(RuntimeError):
    """No free part key was found; nearly all of the 456,976 are taken."""


def check_shows(name: str) -> None:
    """Raises ValidationError for a name of which nothing would be seen."""
    if not fold(name).strip():
        raise ValidationError("A name must have a visible character.", code="blank")


class Named(Versioned):
    """What parts have and show by its name: whoever renames one has changed them too.

    There is one of each name, however that is written: `folded` is unique.
    """

    if TYPE_CHECKING:
        name: models.CharField[str, str]
    folded = FoldedField("name", limit=FOLDED_LENGTH)

    class Meta:
        abstract = True
        ordering = ("folded",)
        constraints = (
            models.UniqueConstraint(
                fields=["folded"],
                name="%(class)s_is_one_of_its_name",
                violation_error_code="unique",
            ),
        )

    def __str__(self) -> str:
        return self.name

    @classmethod
    def recorded(cls) -> list[Recorded]:
        """Whoever renames one touches its parts, too (`save`)."""
        values = {"name": "{row}.name"}
        return [Recorded(cls._meta.db_table, part="NULL", values=values, edits=("name",))]

    @classmethod
    def folded_name(cls, name: str) -> str:
        """What `folded` is of a row with this name."""
        return FOLDED_NAME.of(name)

    @classmethod
    def named(cls, name: str) -> tuple[Self, bool]:
        """The row with this name, however it is written, and whether it was made for that.

        Raises ValidationError for a name that shows nothing.
        """
        check_shows(name)
        return cls._default_manager.get_or_create(
            folded=cls.folded_name(name), defaults={"name": name}
        )

    def clean(self) -> None:
        """Raises ValidationError for a name that shows nothing, or that another has."""
        check_shows(self.name)
        others = type(self)._default_manager.exclude(pk=self.pk)
        if other := others.filter(folded=self.folded_name(self.name)).first():
            kind = self._meta.verbose_name
            told = f"There is a {kind} “{other.name}” already."
            raise ValidationError({"name": ValidationError(told, code="unique")})

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Raises as `Versioned.save` does."""
        if self._state.adding:
            super().save(*args, **kwargs)
            return
        with transaction.atomic():
            self.lock_parts()
            super().save(*args, **kwargs)
            # Also those that have got it since: their writers refer to it, or wait for this.
            raise_versions(self._parts())

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        with transaction.atomic():
            self.lock_parts()
            # Who is about to refer to it waits for this, and then does not find it.
            list(type(self)._base_manager.select_for_update().filter(pk=self.pk).values("pk"))
            return super().delete(*args, **kwargs)

    def lock_parts(self) -> None:
        """Parts are locked before what they have."""
        lock_rows(Part, self._parts().values("pk"))

    def _parts(self) -> models.QuerySet[Part]:
        found: models.QuerySet[Part] = self.parts.all()  # type: ignore[attr-defined]
        return found


class Type(Named):
    """What a part is: a resistor, a microcontroller."""

    name = models.CharField(max_length=100)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta(Named.Meta):
        db_table = "types"


class Tag(Named):
    """A label. Rows of their own, so that a tag can be renamed or merged for all its parts."""

    name = models.CharField(max_length=TAG_LENGTH)

    class Meta(Named.Meta):
        db_table = "tags"


class Part(Versioned):
    """An electronics part. `key` is generated once and is how people and URLs name it.

    `pin_pitch` and `dimensions` are free text as printed in datasheets, as are the voltages.
    `product_page` and `seller_link` are free text as well, because older installations have that
    in them; what is written here must be the address of a page (`parts.addresses`).
    """

    class Mounting(models.TextChoices):
        THROUGH_HOLE = "through-hole", "through-hole"
        SURFACE = "surface-mount", "surface-mount"
        PANEL = "panel-mount", "panel-mount"
        CHASSIS = "chassis-mount", "chassis-mount"
        OTHER = "other", "other"

    key = models.CharField(
        max_length=KEY_LENGTH, unique=True, editable=False, validators=[key_validator]
    )
    description = models.TextField()
    manufacturer = models.CharField(max_length=255, blank=True)
    manufacturer_code = models.CharField(max_length=255, blank=True)
    type = models.ForeignKey(
        Type, on_delete=models.PROTECT, null=True, blank=True, related_name="parts"
    )
    tags = models.ManyToManyField(Tag, blank=True, related_name="parts", db_table="part_tags")
    product_page = models.TextField(blank=True)
    seller = models.CharField(max_length=255, blank=True)
    seller_link = models.TextField(blank=True)
    package = models.CharField(max_length=100, blank=True)
    pin_count = models.PositiveIntegerField(null=True, blank=True)
    pin_pitch = models.CharField(max_length=100, blank=True)
    voltage_rating = models.CharField(max_length=100, blank=True)
    input_voltage = models.CharField(max_length=100, blank=True)
    output_voltage = models.CharField(max_length=100, blank=True)
    mounting_type = models.CharField(max_length=100, blank=True)
    series = models.CharField(max_length=100, blank=True)
    dimensions = models.CharField(max_length=100, blank=True)
    cover_attachment = models.ForeignKey(
        "attachments.Attachment",
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="covered_parts",
    )
    search_text = FoldedField("key", "description", "manufacturer", "manufacturer_code")
    # What lists are sorted by. The defaults are for an earlier release during an upgrade.
    description_sorted = FoldedField("description", limit=SORTED_LENGTH, db_default="")
    manufacturer_sorted = FoldedField("manufacturer", limit=SORTED_LENGTH, db_default="")
    manufacturer_code_sorted = FoldedField("manufacturer_code", limit=SORTED_LENGTH, db_default="")
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        db_table = "parts"
        ordering = ["key"]
        indexes = [
            models.Index(fields=[f"{name}_sorted", "id"], name=f"part_by_{name}")
            for name in ("description", "manufacturer", "manufacturer_code")
        ]
        constraints = [
            models.CheckConstraint(
                condition=Q(pin_count__isnull=True) | Q(pin_count__gt=0),
                name="part_pin_count_positive",
            ),
            models.CheckConstraint(condition=~Q(description=""), name="part_has_description"),
            models.CheckConstraint(
                condition=Q(key__length=KEY_LENGTH), name="part_key_has_four_letters"
            ),
            CompositeForeignKey(
                name="part_cover_is_own",
                columns=("cover_attachment_id", "id"),
                to_table="part_attachments",
                to_columns=("id", "part_id"),
                violation_error_message="The cover is not an attachment of this part.",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.key} {self.description}"

    @classmethod
    def recorded(cls) -> list[Recorded]:
        """The part's own columns, and the tags put on it and taken off."""
        folded = {field.column for field in folded_fields(cls)}
        kept = {"id", "version", "created_at", "updated_at", *folded}
        names = tuple(str(field.column) for field in cls._meta.concrete_fields)
        edits = tuple(name for name in names if name not in kept)
        values = {name: f"{{row}}.{name}" for name in edits if name != "type_id"}
        values["type"] = "(SELECT name FROM types WHERE id = {row}.type_id)"
        return [
            Recorded(cls._meta.db_table, "{row}.id", values, edits, touches=("version",)),
            Recorded(
                cls.tags.through._meta.db_table,
                part="{row}.part_id",
                values={"tag": "(SELECT name FROM tags WHERE id = {row}.tag_id)"},
                edits=("tag_id", "part_id"),
            ),
        ]

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Generate the key of a new part. Raises ValidationError when a stored key is changed.

        Raises as `Versioned.save` does, too.
        """
        if self._state.adding and not self.key:
            self._insert_with_new_key(*args, **kwargs)
            return
        if not self._state.adding:
            stored = type(self).objects.filter(pk=self.pk).values_list("key", flat=True).first()
            if stored is not None and stored != self.key:
                raise ValidationError({"key": "A part's key never changes."})
        super().save(*args, **kwargs)

    def _insert_with_new_key(self, *args: Any, **kwargs: Any) -> None:
        """Two writers may draw the same key at once; the unique constraint decides, we redraw."""
        for _ in range(KEY_ATTEMPTS):
            self.key = new_key()
            try:
                with transaction.atomic():
                    super().save(*args, **kwargs)
            except IntegrityError:
                taken = type(self).objects.filter(key=self.key).exists()
                self.key = ""
                self.pk = None
                if not taken:
                    raise
            else:
                return
        raise KeysExhausted(f"no free key in {KEY_ATTEMPTS} attempts")

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        with transaction.atomic():
            # Nothing may be attached to it from here on: what goes with it is looked for now.
            list(type(self)._base_manager.select_for_update().filter(pk=self.pk).values("pk"))
            return super().delete(*args, **kwargs)


class SourceRow(models.Model):
    """A row of an older installation that was read, and what became of it.

    It is the map from ids there to ids here, and it holds the object that the row named: deleting
    that is out of the question until `released_at` is set. `source_id` is the row's id there as
    text, `name` what people know it by (a part's key, an attachment's title). `our_id` is that of
    the row it became (a part for `parts`, an attachment for the tables of attachments), which may
    have been deleted since. `object_size` is in bytes, as recorded there.

    - UNTRIED: read, and no attempt was made to import it. Holds.
    - REFUSED: not imported, for the reason given. Holds until it is imported after all (it is
      ACCEPTED then) or released as resolved or forgotten.
    - ACCEPTED: it is here. Holds its old object until the source is retired.

    Whoever adds a row, or makes one hold again, keeps cleanups away until it is committed
    (`LEGACY_LAYOUT`, shared) and, for a key below `cas/`, has the digest's lock (`lock_shared`).
    A key longer than the column is one that no store has an object for; record none.
    """

    class State(models.TextChoices):
        UNTRIED = "untried", "not tried"
        ACCEPTED = "accepted", "imported"
        REFUSED = "refused", "refused"

    class Release(models.TextChoices):
        RETIRED = "retired", "the source was retired"
        RESOLVED = "resolved", "imported after all"
        FORGOTTEN = "forgotten", "forgotten by name"

    source = models.CharField(max_length=200)
    source_table = models.CharField(max_length=100)
    source_id = models.CharField(max_length=255)
    name = models.CharField(max_length=255, blank=True, default="")
    our_id = models.BigIntegerField(null=True, blank=True)
    object_key = ObjectKeyField(
        max_length=1024,
        null=True,
        blank=True,
        kind=KeyKind.HOLD,
        active=Q(released_at__isnull=True),
        reasons=("source", "state", "reason_code"),
    )
    object_size = models.BigIntegerField(null=True, blank=True)
    state = models.CharField(max_length=20, choices=State, default=State.UNTRIED)
    reason_code = models.CharField(max_length=50, blank=True, default="")
    reason = models.TextField(blank=True, default="")
    first_seen_at = models.DateTimeField(auto_now_add=True)
    tried_at = models.DateTimeField(null=True, blank=True)
    released_at = models.DateTimeField(null=True, blank=True)
    release_cause = models.CharField(max_length=20, blank=True, default="", choices=Release)

    class Meta:
        db_table = "legacy_source_rows"
        ordering = ["source", "source_table", "source_id"]
        indexes = [
            # On PostgreSQL the column compares bytes (see its migration), as stores list keys.
            models.Index(fields=["object_key", "id"], name="source_row_object"),
            models.Index(fields=["source", "state"], name="source_row_state"),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["source", "source_table", "source_id"], name="source_row_unique"
            ),
            models.CheckConstraint(
                condition=Q(state__in=["untried", "accepted", "refused"]),
                name="source_row_state_is_known",
            ),
            models.CheckConstraint(
                condition=~Q(state="refused") | ~Q(reason_code=""),
                name="source_row_refusal_has_reason",
            ),
            models.CheckConstraint(
                condition=Q(released_at__isnull=True, release_cause="")
                | (
                    Q(released_at__isnull=False)
                    & Q(release_cause__in=["retired", "resolved", "forgotten"])
                ),
                name="source_row_release_has_cause",
            ),
            models.CheckConstraint(
                condition=Q(object_key__isnull=True) | ~Q(object_key=""),
                name="source_row_key_not_empty",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.source} {self.source_table} {self.source_id}"
