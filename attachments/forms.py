"""The admin's forms for attachments. A file goes the same way as one sent to the API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from django import forms
from django.contrib.admin.widgets import AdminTextInputWidget, AdminURLFieldWidget
from django.core.exceptions import ValidationError
from django.core.validators import URLValidator
from django.forms.formsets import DELETION_FIELD_NAME
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from attachments import markup, references
from attachments.models import Attachment
from attachments.uploads import UploadRefused, stage
from cas.content_types import FORMATS
from cas.storage.base import StoreError, StoreFull, Unreachable

if TYPE_CHECKING:
    ModelForm = forms.ModelForm[Attachment]
    InlineFormSet = forms.BaseInlineFormSet[Attachment, Any, ModelForm]
else:
    ModelForm, InlineFormSet = forms.ModelForm, forms.BaseInlineFormSet


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


class WebAddressField(forms.URLField):
    """The address of a web page: what a browser can follow without harm, http or https."""

    widget = AdminURLFieldWidget
    default_validators = [URLValidator(["http", "https"])]
    default_error_messages = {
        "invalid": "Enter a web address that starts with http:// or https://."
    }

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_length=2000, assume_scheme="https", **kwargs)


class Fixed(forms.Widget):
    """Shows what can no longer be changed."""

    def __init__(self, shown: SafeString) -> None:
        super().__init__()
        self.shown = shown

    def render(self, *args: Any, **kwargs: Any) -> SafeString:
        return self.shown


class AttachmentForm(ModelForm):
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

    def attach(self, part: Any) -> Attachment:
        """Add the attachment to `part`. Raises StoreError; the row is rolled back."""
        given = self.cleaned_data
        if given["file"]:
            return references.attach(part, given["file"], given["title"])
        return references.attach_url(part, given["link"], given["title"])

    def save(self, commit: bool = True) -> Attachment:
        if commit:
            self.instance.rename(self.cleaned_data["title"])
        return self.instance


class AttachmentFormSet(InlineFormSet):
    """A part's attachments. `fault` is what the store did to the last attempt to save them."""

    fault: StoreError | None = None

    def is_multipart(self) -> bool:
        # Django asks the first form only, and that of a stored file has no file to send.
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

    def save_new(self, form: ModelForm, commit: bool = True) -> Attachment:
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
