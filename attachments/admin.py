"""The admin of all attachments. Those of a part are in its page, see `parts.admin`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, cast

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.exceptions import DisallowedModelAdminLookup
from django.contrib.admin.utils import flatten_fieldsets
from django.contrib.admin.views.main import ERROR_FLAG, ChangeList
from django.core.exceptions import ValidationError
from django.db import IntegrityError
from django.db.models import Count, Model, OuterRef, Q, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.datastructures import MultiValueDict
from django.utils.html import format_html, format_html_join
from django.utils.http import urlencode
from django.utils.safestring import SafeString

from attachments import markup
from attachments.locks import lock_rows, retried
from attachments.models import LEGACY_PREFIX, Attachment, AttachmentQuerySet, fold
from cas.digest import CAS_PREFIX

if TYPE_CHECKING:
    AnyModelAdmin = admin.ModelAdmin[Any]
    ModelForm = forms.ModelForm[Any]
else:
    AnyModelAdmin = admin.ModelAdmin
    ModelForm = forms.ModelForm

DIGEST_SEARCHED = 4
"""Digits from which on a search term is taken for the start of a digest."""

SHARERS_LISTED = 20

MOST_WORDS = 32
"""Words of a search."""


class Style:
    """What every page that shows attachments needs."""

    css = {"all": ["attachments/admin.css"]}


class VersionedForm(ModelForm):
    """A form that saves nothing over what somebody else has changed since it was shown.

    It is shown again then, with what was typed and, at each field that differs, what is stored.
    """

    read_version = forms.IntegerField(required=False, widget=forms.HiddenInput)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk is not None:
            self.fields["read_version"].initial = self.instance.version

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        read = cleaned.get("read_version")
        if self.instance.pk is None or read in (None, self.instance.version):
            return cleaned
        differing = [name for name in self.changed_data if name != "read_version"]
        for name in differing:
            self.add_error(name, f"What is stored now: {self._stored(name) or 'nothing'}")
        if differing:
            # What differs was shown now: saving again is a decision.
            shown_now = {self.add_prefix("read_version"): [str(self.instance.version)]}
            given = cast(MultiValueDict[str, Any], self.data)
            self.data = MultiValueDict({**dict(given.lists()), **shown_now})
            raise ValidationError(
                "Somebody else has changed this since the page was loaded. Nothing was saved. Look "
                "at the fields that differ, then save again to keep what is in them.",
                code="conflict",
            )
        return cleaned

    def _stored(self, name: str) -> str:
        value = self.initial.get(name)
        field = self.fields[name]
        if isinstance(field, forms.ModelChoiceField) and value not in (None, ""):
            many = isinstance(value, list | tuple | QuerySet)
            chosen = [getattr(each, "pk", each) for each in (value if many else [value])]
            rows = cast(QuerySet[Any], field.queryset).model._base_manager.filter(pk__in=chosen)
            return ", ".join(map(str, rows))
        return "" if value is None else str(value)


class FoldedChangeList(ChangeList):
    """A list that is sorted by columns as `VersionedAdmin.sorted_by` has them."""

    def get_ordering_field(self, field_name: Any) -> Any:
        sorted_by = cast(VersionedAdmin, self.model_admin).sorted_by
        return sorted_by.get(field_name) or super().get_ordering_field(field_name)


class VersionedAdmin(AnyModelAdmin):
    """The page of a row that several may edit at once. Its form is a VersionedForm.

    The row is locked from when it is read until it is saved. A deadlock is tried again. The first
    of `search_fields` is a FoldedField; `sorted_by` names those that texts are sorted by.
    """

    sorted_by: ClassVar[dict[str, str]] = {}

    @retried
    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            answer: HttpResponse = super().changeform_view(request, *args, **kwargs)
        except IntegrityError:
            # What somebody else has stored since it was looked for: the form says so by now.
            answer = super().changeform_view(request, *args, **kwargs)
        return answer

    @retried
    def changelist_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            answer: HttpResponse = super().changelist_view(request, *args, **kwargs)
        except DisallowedModelAdminLookup:
            # As Django does for values that make no sense, but not in silence.
            told = "The filter in this page's address cannot be used; everything is listed."
            self.message_user(request, told, messages.WARNING)
            return HttpResponseRedirect(f"{request.path}?{ERROR_FLAG}=1")
        return answer

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Rows that have every word of the term in their folded text."""
        words = dict.fromkeys(fold(search_term).split())
        # A condition for each word: databases have limits for what one query may say.
        if len(words) > MOST_WORDS:
            told = f"A search has at most {MOST_WORDS} words."
            self.message_user(request, told, messages.WARNING)
            return queryset.none(), False
        for word in words:
            queryset = queryset.filter(self.having(word))
        return queryset, False

    def having(self, word: str) -> Q:
        """The condition that a folded word occurs in a row."""
        return Q((f"{self.search_fields[0]}__contains", word))

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return FoldedChangeList

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Without patterns, which a database may refuse, or take for ever over."""
        if lookup.rpartition("__")[2] in ("regex", "iregex"):
            return False
        return bool(super().lookup_allowed(lookup, value, request))

    @retried
    def delete_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        answer: HttpResponse = super().delete_view(request, *args, **kwargs)
        return answer

    def get_object(
        self, request: HttpRequest, object_id: str, from_field: str | None = None
    ) -> Any:
        row = super().get_object(request, object_id, from_field)
        if row is None or request.method != "POST":
            return row
        lock_rows(type(row), [row.pk])
        return super().get_object(request, object_id, from_field)

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        shown: Any = super().get_fieldsets(request, obj)
        if obj is None or not self.has_change_permission(request, obj):
            return shown
        (title, first), *others = shown
        return [(title, {**first, "fields": ("read_version", *first["fields"])}), *others]


class LayoutFilter(admin.SimpleListFilter):
    """Files by the layout their key is of; links are of neither."""

    title = "storage"
    parameter_name = "storage"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("migrated", "migrated"), ("legacy", "not migrated")]

    def queryset(
        self, request: HttpRequest, queryset: QuerySet[Attachment]
    ) -> QuerySet[Attachment]:
        rows = cast(AttachmentQuerySet, queryset)
        if self.value() == "migrated":
            return rows.migrated()
        return rows.unmigrated() if self.value() == "legacy" else rows


@admin.register(Attachment)
class AttachmentAdmin(VersionedAdmin):
    """All attachments. They are added on their part's page; here, only a title can be changed."""

    form = VersionedForm
    list_display = ("preview", "title", "part_key", "kind", "size", "digest", "rows", "links")
    list_display_links = ("title",)
    list_filter = ("attachment_type", LayoutFilter)
    list_select_related = ("part",)
    list_per_page = 50
    search_fields = ("search_text",)
    sorted_by = {"title": "search_text"}
    search_help_text = (
        "A title, a file name, a part's key, or a digest (all of it or the first digits)."
    )
    fieldsets = (
        (None, {"fields": ("large_preview", "title", "part_link", "kind", "links")}),
        ("File", {"fields": ("filename", "content_type", "exact_size")}),
        ("Storage", {"fields": ("full_digest", "s3_key", "sharers")}),
        ("Dates", {"fields": ("created_at", "updated_at")}),
    )
    Media = Style

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return [name for name in flatten_fieldsets(self.fieldsets) if name != "title"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def get_queryset(self, request: HttpRequest) -> Any:
        same = Attachment.objects.filter(s3_key=OuterRef("s3_key")).order_by().values("s3_key")
        counted = same.annotate(rows=Count("pk")).values("rows")
        return super().get_queryset(request).annotate(rows=Subquery(counted))

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Attachment], search_term: str
    ) -> tuple[QuerySet[Attachment], bool]:
        found, duplicates = super().get_search_results(request, queryset, search_term)
        if prefix := _key_prefix(search_term):
            found = found | queryset.filter(s3_key__startswith=prefix)
        return found, duplicates

    def having(self, word: str) -> Q:
        return super().having(word) | Q(part__key=word.upper())

    def save_model(self, request: HttpRequest, obj: Attachment, form: Any, change: bool) -> None:
        if "title" in form.changed_data:
            obj.rename(obj.title)

    @admin.display(description="preview")
    def preview(self, attachment: Attachment) -> SafeString:
        return markup.preview(attachment)

    @admin.display(description="preview")
    def large_preview(self, attachment: Attachment) -> SafeString:
        return markup.large_preview(attachment)

    @admin.display(description="part", ordering="part__key")
    def part_key(self, attachment: Attachment) -> SafeString:
        part = attachment.part
        return format_html('<a href="{}" title="{}">{}</a>', _part_url(part), part, part.key)

    @admin.display(description="part")
    def part_link(self, attachment: Attachment) -> SafeString:
        return _part_link(attachment)

    @admin.display(description="type", ordering="attachment_type")
    def kind(self, attachment: Attachment) -> str:
        return attachment.get_attachment_type_display()

    @admin.display(description="size", ordering="file_size")
    def size(self, attachment: Attachment) -> str:
        return markup.size(attachment)

    @admin.display(description="size")
    def exact_size(self, attachment: Attachment) -> str:
        if attachment.file_size is None:
            return ""
        return f"{markup.size(attachment)} ({attachment.file_size:,} bytes)"

    @admin.display(description="digest", ordering="s3_key")
    def digest(self, attachment: Attachment) -> SafeString:
        return markup.short_digest(attachment)

    @admin.display(description="digest")
    def full_digest(self, attachment: Attachment) -> SafeString:
        if attachment.digest is None:
            return markup.short_digest(attachment)
        return format_html('<code class="attachment-digest">{}</code>', attachment.digest)

    @admin.display(description="links", empty_value="")
    def links(self, attachment: Attachment) -> SafeString:
        return markup.file_links(attachment)

    @admin.display(description="shared by")
    def rows(self, attachment: Any) -> SafeString | str:
        if not attachment.rows:
            return ""
        if attachment.rows == 1:
            return "1 row"
        address = reverse("admin:attachments_attachment_changelist")
        query = urlencode({"q": attachment.s3_key})
        return format_html('<a href="{}?{}">{} rows</a>', address, query, attachment.rows)

    @admin.display(description="rows sharing the object")
    def sharers(self, attachment: Any) -> SafeString | str:
        if not attachment.rows:
            return ""
        others = Attachment.objects.filter(s3_key=attachment.s3_key).exclude(pk=attachment.pk)
        listed = others.select_related("part")[:SHARERS_LISTED]
        lines = format_html_join("", "<li>{}</li>", ((_part_link(row),) for row in listed))
        return format_html(
            '{}{}<ul class="attachment-sharers">{}</ul>',
            self.rows(attachment),
            ", the others on:" if lines else ": this one",
            lines,
        )


def _part_link(attachment: Attachment) -> SafeString:
    return format_html('<a href="{}">{}</a>', _part_url(attachment.part), attachment.part)


def _part_url(part: Model) -> str:
    meta = part._meta
    return reverse(f"admin:{meta.app_label}_{meta.model_name}_change", args=[part.pk])


def _key_prefix(term: str) -> str:
    """The start of the keys that a search term may stand for; "" if it cannot be one."""
    given = term.strip().rstrip("…")
    if given.startswith((CAS_PREFIX, LEGACY_PREFIX)):
        return given
    digits = given.lower()
    if DIGEST_SEARCHED <= len(digits) <= 64 and not set(digits) - set("0123456789abcdef"):
        return CAS_PREFIX + digits
    return ""
