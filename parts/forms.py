"""The admin's forms for parts, their attachments, and tags.

A file goes the same way as one sent to the API.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from django import forms
from django.contrib.admin.widgets import (
    AdminIntegerFieldWidget,
    AdminTextInputWidget,
    AdminURLFieldWidget,
)
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.forms.formsets import DELETION_FIELD_NAME
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from attachments import markup
from attachments.addresses import INVALID, LONGEST, web_address
from attachments.admin import VersionedForm
from attachments.models import Attachment
from attachments.uploads import UploadRefused, stage
from cas.content_types import FORMATS
from cas.storage.base import StoreError, StoreFull, Unreachable
from parts.addresses import is_same
from parts.covers import attach, attach_url
from parts.models import Part, Tag

if TYPE_CHECKING:
    AttachmentModelForm = forms.ModelForm[Attachment]
    AttachmentChoice = forms.ModelChoiceField[Attachment]
    TagChoice = forms.ModelChoiceField[Tag]
    InlineFormSet = forms.BaseInlineFormSet[Attachment, Part, AttachmentModelForm]
else:
    AttachmentModelForm = forms.ModelForm
    AttachmentChoice = TagChoice = forms.ModelChoiceField
    InlineFormSet = forms.BaseInlineFormSet

LARGEST_PIN_COUNT = 2_147_483_647
"""What PostgreSQL's integer holds."""


class WebAddressField(forms.URLField):
    """The address of a web page: what a browser can follow without harm, http or https."""

    widget = AdminURLFieldWidget
    default_validators = [web_address]
    default_error_messages = {"invalid": INVALID}

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_length=LONGEST, assume_scheme="https", **kwargs)


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
        url = obj.links().thumbnail
        shown = markup.picture(url, "") if url else SafeString("")
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


class PartForm(VersionedForm):
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


def fault_message(error: StoreError) -> str:
    """What a person can do about a store that failed."""
    if isinstance(error, Unreachable):
        return "The file store does not answer at the moment. Try again in a little while."
    if isinstance(error, StoreFull):
        return "The file store has no room left for the file. Ask whoever runs it to make some."
    return "The file store did not take the file. The log says why; tell whoever runs it."


class ReceivedFileField(forms.FileField):
    """A file of the request; cleans to a StagedUpload, or says why it is not accepted."""

    widget = forms.FileInput(attrs={"accept": ",".join(FORMATS)})

    def __init__(self, **kwargs: Any) -> None:
        # Whether an empty file is acceptable is for `stage` to say, as it is for the API.
        super().__init__(allow_empty_file=True, **kwargs)

    def clean(self, data: Any, initial: Any = None) -> Any:
        received = super().clean(data, initial)
        if received is None:
            return None
        try:
            return stage(received)
        except UploadRefused as refusal:
            reason = str(refusal)
            raise ValidationError(
                f"{received.name}: {reason[:1].upper()}{reason[1:]}.", code=refusal.code
            ) from refusal
        except StoreError as error:
            raise ValidationError(fault_message(error), code=error.code) from error


class Fixed(forms.Widget):
    """Shows what can no longer be changed."""

    def __init__(self, shown: SafeString) -> None:
        super().__init__()
        self.shown = shown

    def render(self, *args: Any, **kwargs: Any) -> SafeString:
        return self.shown


class AttachmentForm(VersionedForm):
    """A new attachment, from a file or a link; of one that is there, the title."""

    title = forms.CharField(
        required=False,
        max_length=255,
        widget=AdminTextInputWidget,
        help_text="Left empty, it is the file's name or the link.",
    )
    file = ReceivedFileField(
        required=False, help_text="JPEG, PNG, WebP, GIF and AVIF images, and PDFs."
    )
    link = WebAddressField(label="or link", required=False)

    class Meta:
        model = Attachment
        fields = ["title"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.is_new = self.instance.pk is None
        if not self.is_new:
            self.fields["title"].required = True
            self._fix("file", _stored(self.instance))
            self._fix("link", markup.web_link(self.instance.url or ""))

    def _fix(self, name: str, shown: SafeString) -> None:
        self.fields[name].disabled = True
        self.fields[name].widget = Fixed(shown)

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if self.is_new and not ({"file", "link"} & self.errors.keys()):
            file, link = cleaned.get("file"), cleaned.get("link")
            if file and link:
                raise ValidationError("Give either a file or a link, not both.", code="file_or_url")
            if not file and not link:
                raise ValidationError("Choose a file or enter a link.", code="file_or_url")
        return cleaned

    def attach(self, part: Part) -> Attachment:
        """Add the attachment to `part`. Raises StoreError; the row is rolled back."""
        given = self.cleaned_data
        if given["file"]:
            return attach(part, given["file"], given["title"])
        return attach_url(part, given["link"], given["title"])

    def save(self, commit: bool = True) -> Attachment:
        if commit:
            self.instance.rename(self.cleaned_data["title"])
        row: Attachment = self.instance
        return row


class AttachmentFormSet(InlineFormSet):
    """A part's attachments. `fault` is what the store did to the last attempt to save them."""

    fault: StoreError | None = None

    def is_multipart(self) -> bool:
        # Django considers the first form only, and that of a stored file has no file to send.
        return True

    def clean(self) -> None:
        super().clean()
        if self.fault:
            raise ValidationError(
                f"{fault_message(self.fault)} Nothing was saved; choose the files again.",
                code=self.fault.code,
            )
        gone = (form for form in self.initial_forms if form.instance.pk is None)
        if not all(form.cleaned_data.get(DELETION_FIELD_NAME) for form in gone):
            raise ValidationError(
                "Attachments listed here were deleted meanwhile. Load the page again.", code="gone"
            )

    def save_new(self, form: AttachmentModelForm, commit: bool = True) -> Attachment:
        return cast(AttachmentForm, form).attach(self.instance)


def _stored(attachment: Attachment) -> SafeString:
    """What is said of an attachment that is there, beside its title."""
    details = format_html(
        '<a href="{}">Details</a>',
        reverse("admin:attachments_attachment_change", args=[attachment.pk]),
    )
    kind = attachment.get_attachment_type_display()
    if not attachment.is_file:
        return format_html('<span class="attachment-facts">{} · {}</span>', kind, details)
    return format_html(
        '<span class="attachment-file">{}</span><br>'
        '<span class="attachment-facts">{}, {} · {} · {}</span>',
        attachment.filename,
        kind,
        markup.size(attachment),
        markup.file_links(attachment),
        details,
    )
