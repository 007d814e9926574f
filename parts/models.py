"""Parts, their types and tags. The table `parts` is the older installation's."""

from __future__ import annotations

import secrets
import string
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.db import IntegrityError, models, transaction
from django.db.models import Q
from django.db.models.functions import Length

KEY_LENGTH = 4
KEY_ATTEMPTS = 50
key_validator = RegexValidator(r"\A[A-Z]{4}\Z", "A key is four uppercase letters.")

models.CharField.register_lookup(Length)


def new_key() -> str:
    return "".join(secrets.choice(string.ascii_uppercase) for _ in range(KEY_LENGTH))


class KeysExhausted(RuntimeError):
    """No free part key was found; nearly all of the 456,976 are taken."""


class Type(models.Model):
    """What a part is: a resistor, a microcontroller."""

    name = models.CharField(max_length=100, unique=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        db_table = "types"
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Tag(models.Model):
    """A label. Rows of their own, so that a tag can be renamed or merged for all its parts."""

    name = models.CharField(max_length=100, unique=True)

    class Meta:
        db_table = "tags"
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Part(models.Model):
    """An electronics part. `key` is generated once and is how people and URLs name it.

    `pin_pitch` and `dimensions` are free text as printed in datasheets, as are the voltages.
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
    description = models.CharField(max_length=500)
    manufacturer = models.CharField(max_length=255, blank=True)
    manufacturer_code = models.CharField(max_length=255, blank=True)
    type = models.ForeignKey(
        Type, on_delete=models.PROTECT, null=True, blank=True, related_name="parts"
    )
    tags = models.ManyToManyField(Tag, blank=True, related_name="parts", db_table="part_tags")
    product_page = models.URLField(max_length=2000, blank=True)
    seller = models.CharField(max_length=255, blank=True)
    seller_link = models.URLField(max_length=2000, blank=True)
    package = models.CharField(max_length=100, blank=True)
    pin_count = models.PositiveIntegerField(null=True, blank=True)
    pin_pitch = models.CharField(max_length=50, blank=True)
    voltage_rating = models.CharField(max_length=50, blank=True)
    input_voltage = models.CharField(max_length=50, blank=True)
    output_voltage = models.CharField(max_length=50, blank=True)
    mounting_type = models.CharField(max_length=50, blank=True)
    series = models.CharField(max_length=100, blank=True)
    dimensions = models.CharField(max_length=100, blank=True)
    cover_attachment = models.ForeignKey(
        "attachments.Attachment",
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="covered_parts",
    )
    search_text = models.TextField(blank=True, default="", editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        db_table = "parts"
        ordering = ["key"]
        constraints = [
            models.CheckConstraint(
                condition=Q(pin_count__isnull=True) | Q(pin_count__gt=0),
                name="part_pin_count_positive",
            ),
            models.CheckConstraint(condition=~Q(description=""), name="part_has_description"),
            models.CheckConstraint(
                condition=Q(key__length=KEY_LENGTH), name="part_key_has_four_letters"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.key} {self.description}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Generate the key of a new part. Raises ValidationError when a stored key is changed."""
        from parts.search import folded_text

        if self._state.adding and not self.key:
            self._insert_with_new_key(*args, **kwargs)
            return
        if not self._state.adding:
            stored = type(self).objects.filter(pk=self.pk).values_list("key", flat=True).first()
            if stored is not None and stored != self.key:
                raise ValidationError({"key": "A part's key never changes."})
        self.search_text = folded_text(self)
        if (fields := kwargs.get("update_fields")) is not None:
            kwargs["update_fields"] = {*fields, "search_text"}
        super().save(*args, **kwargs)

    def _insert_with_new_key(self, *args: Any, **kwargs: Any) -> None:
        """Two writers may draw the same key at once; the unique constraint decides, we redraw."""
        from parts.search import folded_text

        for _ in range(KEY_ATTEMPTS):
            self.key = new_key()
            self.search_text = folded_text(self)
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
