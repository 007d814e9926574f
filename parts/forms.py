"""The admin's forms for parts and tags."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib.admin.widgets import AdminIntegerFieldWidget
from django.db.models import QuerySet
from django.utils.html import format_html
from django.utils.safestring import SafeString

from attachments.forms import WebAddressField
from attachments.links import links
from attachments.markup import picture
from attachments.models import Attachment
from parts.addresses import is_same
from parts.models import Part, Tag

if TYPE_CHECKING:
    ModelForm = forms.ModelForm[Part]
    AttachmentChoice = forms.ModelChoiceField[Attachment]
    TagChoice = forms.ModelChoiceField[Tag]
else:
    ModelForm, AttachmentChoice, TagChoice = (
        forms.ModelForm,
        forms.ModelChoiceField,
        forms.ModelChoiceField,
    )

LARGEST_PIN_COUNT = 2_147_483_647
"""What PostgreSQL's integer holds."""


class CoverField(AttachmentChoice):
    """One of a part's pictures, each shown by its thumbnail, or none."""

    def __init__(self) -> None:
        super().__init__(
            Attachment.objects.none(),
            required=False,
            blank=True,
            empty_label="no cover",
            widget=forms.RadioSelect(attrs={"class": "cover-choice"}),
            help_text="Without a cover, the next image that is attached becomes it.",
        )

    def label_from_instance(self, obj: Attachment) -> SafeString:
        url = links(obj).thumbnail
        shown = picture(url, "") if url else SafeString("")
        return format_html('{} <span class="cover-title">{}</span>', shown, obj.title)


class PageAddressField(WebAddressField):
    """A web address, or the text that is `stored` already; see `parts.addresses`."""

    stored = ""

    def __init__(self) -> None:
        super().__init__(required=False)
        # A browser would not send a form with text in an input for addresses.
        self.widget.input_type = "text"

    def clean(self, value: Any) -> Any:
        if self.stored and is_same(value or "", self.stored):
            return self.stored
        return super().clean(value)


class PartForm(ModelForm):
    """A part. `cover` is set once its attachments are saved, see `PartAdmin.save_related`."""

    product_page = PageAddressField()
    seller_link = PageAddressField()
    pin_count = forms.IntegerField(
        required=False,
        min_value=1,
        max_value=LARGEST_PIN_COUNT,
        widget=AdminIntegerFieldWidget,
    )
    cover = CoverField()

    class Meta:
        model = Part
        fields: list[str] = []

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, field in self.fields.items():
            if isinstance(field, PageAddressField):
                field.stored = getattr(self.instance, name)
        cover = self.fields.get("cover")
        if isinstance(cover, CoverField):
            cover.queryset = images_of(self.instance)
            self.initial["cover"] = self.instance.cover_attachment_id


class MergeForm(forms.Form):
    """Which of the chosen tags is to stay."""

    kept: TagChoice

    def __init__(self, tags: QuerySet[Tag], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["kept"] = TagChoice(
            tags, label="Tag to keep", widget=forms.RadioSelect, empty_label=None
        )


def images_of(part: Part) -> QuerySet[Attachment]:
    """What can be a part's cover. With their part: an older row's URL has its key in it."""
    rows = Attachment.objects.pictures().filter(part=part.pk)
    return rows.select_related("part").order_by("created_at", "pk")
