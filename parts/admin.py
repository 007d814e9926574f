"""The admin of parts, with their attachments, and of types and tags."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any, Final

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.widgets import AdminTextareaWidget
from django.core.exceptions import PermissionDenied
from django.db import models, transaction
from django.db.models import Count, QuerySet
from django.http import (
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseNotAllowed,
    HttpResponseRedirect,
)
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from rest_framework.exceptions import ValidationError

from attachments import markup
from attachments.admin import Style, VersionedAdmin, VersionedForm
from attachments.models import Attachment, Change
from cas.storage.base import StoreError
from parts.covers import set_cover
from parts.forms import AttachmentForm, AttachmentFormSet, MergeForm, PartForm
from parts.models import Part, Tag, Type
from parts.restore import NotRestorable, restore
from parts.search import TooLong, matching
from parts.tags import merge
from parts.updates import history, shown

if TYPE_CHECKING:
    AttachmentTabularInline = admin.TabularInline[Attachment, Part]
else:
    AttachmentTabularInline = admin.TabularInline

logger = logging.getLogger(__name__)


HISTORY_LISTED: Final = 200


class CoverFilter(admin.SimpleListFilter):
    """Parts with and without a cover."""

    title = "cover"
    parameter_name = "has_cover"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "has a cover"), ("no", "has none")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Part]) -> QuerySet[Part]:
        if self.value() not in {"yes", "no"}:
            return queryset
        return queryset.filter(cover_attachment__isnull=self.value() == "no")


class AttachmentInline(AttachmentTabularInline):
    """A part's attachments: add files and links, change titles, delete."""

    model = Attachment
    form = AttachmentForm
    formset = AttachmentFormSet
    fields = ("preview", "title", "file", "link", "read_version")
    readonly_fields = ("preview",)
    extra = 1
    Media = Style

    def get_queryset(self, request: HttpRequest) -> QuerySet[Attachment]:
        # The URL of a row on its old key has its part's key in it.
        return super().get_queryset(request).select_related("part")

    def get_formset(self, request: HttpRequest, obj: Any = None, **kwargs: Any) -> Any:
        formset: Any = super().get_formset(request, obj, **kwargs)
        formset.fault = getattr(request, "store_fault", None)
        return formset

    @admin.display(description="preview")
    def preview(self, attachment: Attachment) -> SafeString | str:
        return markup.preview(attachment) if attachment.pk else ""

    # What a reader who may not change attachments sees in place of the form's fields.

    @admin.display(description="file")
    def file(self, attachment: Attachment) -> SafeString | str:
        return markup.file_links(attachment) if attachment.is_file else ""

    @admin.display(description="link")
    def link(self, attachment: Attachment) -> SafeString:
        return markup.web_link(attachment.url or "")


@admin.register(Part)
class PartAdmin(VersionedAdmin):
    """Parts, each with its attachments in its page, where its cover is chosen too."""

    form = PartForm
    # Descriptions are a line or two, although an older one may have any length.
    formfield_overrides = {models.TextField: {"widget": AdminTextareaWidget(attrs={"rows": 2})}}
    inlines = (AttachmentInline,)
    list_display = ("cover", "key", "description", "manufacturer", "type", "tag_names")
    list_display_links = ("key", "description")
    list_filter = (CoverFilter, "type", "tags")
    # The thumbnail's URL has the part's key in it while its row is on an old key.
    list_select_related = ("type", "cover_attachment__part")
    list_per_page = 50
    # Named for the search box to appear; `get_search_results` does the searching.
    search_fields = ("search_text",)
    sorted_by = {"description": "description_sorted", "manufacturer": "manufacturer_sorted"}
    search_help_text = "Every word is looked for in key, description, manufacturer, type and tags."
    autocomplete_fields = ("type", "tags")
    readonly_fields = ("shown_key", "created_at", "updated_at")
    Media = Style

    fieldsets = (
        (None, {"fields": ("shown_key", "description", "type", "tags")}),
        ("Cover", {"fields": ("cover",)}),
        (
            "Manufacturer and seller",
            {
                "fields": (
                    ("manufacturer", "manufacturer_code"),
                    "series",
                    "product_page",
                    "seller",
                    "seller_link",
                )
            },
        ),
        (
            "Package",
            {
                "fields": (
                    ("package", "mounting_type"),
                    ("pin_count", "pin_pitch"),
                    "dimensions",
                )
            },
        ),
        ("Electrical", {"fields": (("voltage_rating", "input_voltage", "output_voltage"),)}),
        ("Dates", {"fields": (("created_at", "updated_at"),), "classes": ("collapse",)}),
    )

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """A store that fails gives a message, not a 500.

        The view's transaction covers the part and all its attachments, so that a fault rolls all of
        it back. The form is then shown again, with what was typed and the reason.
        """
        try:
            return super().changeform_view(request, *args, **kwargs)
        except StoreError as error:
            logger.exception("the store failed while an upload was saved: %s", error.key)
            request.store_fault = error  # type: ignore[attr-defined]
        return super().changeform_view(request, *args, **kwargs)

    def get_fieldsets(self, request: HttpRequest, obj: Part | None = None) -> Any:
        shown = super().get_fieldsets(request, obj)
        if obj is None:
            # A new part has no image yet to choose from, and no dates.
            return [(name, rest) for name, rest in shown if name not in {"Cover", "Dates"}]
        return shown

    def get_queryset(self, request: HttpRequest) -> QuerySet[Part]:
        return super().get_queryset(request).prefetch_related("tags")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Part], search_term: str
    ) -> tuple[QuerySet[Part], bool]:
        if not search_term.strip():
            return queryset, False
        try:
            found: QuerySet[Any] = matching(queryset, search_term)
        except TooLong as error:
            self.message_user(request, str(error), messages.WARNING)
            return queryset.none(), False
        return found.order_by("not_exact", *queryset.query.order_by), False

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        if "cover" in form.changed_data:
            _choose_cover(form.instance, form.cleaned_data["cover"])

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: Any = None
    ) -> HttpResponse:
        """What everybody has changed, not in the admin alone."""
        part = self.get_object(request, object_id)
        if part is None or not self.has_view_permission(request, part):
            raise Http404
        newest = list(history(part)[: HISTORY_LISTED + 1])
        context = {
            **self.admin_site.each_context(request),
            "title": f"History of {part.key}",
            "opts": self.opts,
            "part": part,
            "changes": [
                {**shown(change), "done": change.get_action_display()}
                for change in newest[:HISTORY_LISTED]
            ],
            "more": len(newest) > HISTORY_LISTED,
            "may_restore": self.has_restore_permission(request),
        }
        return TemplateResponse(request, "admin/parts/part/history.html", context)

    def get_urls(self) -> list[Any]:
        restoring = path(
            "<int:part_id>/history/<int:change_id>/restore/",
            self.admin_site.admin_view(self.restore_view),
            name="parts_part_restore",
        )
        return [restoring, *super().get_urls()]

    def restore_view(self, request: HttpRequest, part_id: int, change_id: int) -> HttpResponse:
        """Take a change back, then show the history, which has that too."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if not self.has_restore_permission(request):
            raise PermissionDenied
        try:
            restore(part_id, change_id)
        except (Part.DoesNotExist, Change.DoesNotExist) as error:
            raise Http404 from error
        except (NotRestorable, ValidationError) as error:
            told = f"Nothing was changed. {_said(error)}"
            self.message_user(request, told, messages.ERROR)
        else:
            self.message_user(request, "It is as it was before that change.", messages.SUCCESS)
        return HttpResponseRedirect(reverse("admin:parts_part_history", args=[part_id]))

    def has_restore_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perms(("parts.change_part", "attachments.change_attachment"))

    def delete_model(self, request: HttpRequest, obj: Part) -> None:
        self.delete_queryset(request, Part.objects.filter(pk=obj.pk))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Part]) -> None:
        with transaction.atomic():
            # Nothing may be attached to them from here on: what goes with them is looked for now.
            rows = Part._base_manager.select_for_update().filter(pk__in=queryset.values("pk"))
            list(rows.order_by("pk").values_list("pk"))
            super().delete_queryset(request, queryset)

    @admin.display(description="cover")
    def cover(self, part: Part) -> SafeString | str:
        return markup.preview(part.cover_attachment) if part.cover_attachment else ""

    @admin.display(description="key")
    def shown_key(self, part: Part) -> str:
        return part.key or "given when the part is saved"

    @admin.display(description="tags")
    def tag_names(self, part: Part) -> SafeString:
        names = ((tag.name,) for tag in part.tags.all())
        return format_html_join(" ", '<span class="part-tag">{}</span>', names)


def _said(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    faults: Any = error.detail
    return " ".join(f"{name}: {' '.join(map(str, told))}" for name, told in faults.items())


def _choose_cover(part: Part, chosen: Attachment | None) -> None:
    """After the attachments were saved: one that this very form deleted leaves what came of it."""
    with contextlib.suppress(Attachment.DoesNotExist):
        set_cover(part.pk, chosen.pk if chosen else None)


class NamedAdmin(VersionedAdmin):
    """Types and tags, with how many parts have each."""

    form = VersionedForm
    list_display = ("name", "parts_counted")
    ordering = ("folded",)
    search_fields = ("folded",)
    sorted_by = {"name": "folded"}

    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).annotate(part_count=Count("parts"))

    @admin.display(description="parts", ordering="part_count")
    def parts_counted(self, row: Any) -> SafeString:
        address = reverse("admin:parts_part_changelist")
        field = {Type: "type", Tag: "tags"}[self.model]
        return format_html(
            '<a href="{}?{}__id__exact={}">{}</a>', address, field, row.pk, row.part_count
        )


@admin.register(Type)
class TypeAdmin(NamedAdmin):
    """Types of parts. One that parts are of cannot be deleted."""


@admin.register(Tag)
class TagAdmin(NamedAdmin):
    """Tags. To rename one, change it; two for one thing are merged."""

    actions = ("merge_tags",)

    def has_merge_permission(self, request: HttpRequest) -> bool:
        return self.has_change_permission(request) and self.has_delete_permission(request)

    @admin.action(description="Merge selected tags", permissions=["merge"])
    def merge_tags(self, request: HttpRequest, queryset: QuerySet[Tag]) -> TemplateResponse | None:
        """Ask which tag is to stay; with the answer, merge the others into it."""
        tags = list(queryset)
        if len(tags) < 2:
            self.message_user(request, "Select two tags or more to merge.", messages.WARNING)
            return None
        form = MergeForm(queryset, request.POST if "merge" in request.POST else None)
        if form.is_valid():
            self._merge(request, form.cleaned_data["kept"], tags)
            return None
        context = {
            **self.admin_site.each_context(request),
            "title": "Merge tags",
            "opts": self.opts,
            "form": form,
            "tags": tags,
            "action_checkbox_name": ACTION_CHECKBOX_NAME,
        }
        return TemplateResponse(request, "admin/parts/tag/merge.html", context)

    def _merge(self, request: HttpRequest, kept: Tag, tags: list[Tag]) -> None:
        merged = [tag for tag in tags if tag.pk != kept.pk]
        names = ", ".join(f"“{tag.name}”" for tag in merged)
        try:
            moved = merge(kept, merged)
        except Tag.DoesNotExist:
            gone = f"“{kept.name}” was deleted meanwhile; nothing was merged."
            self.message_user(request, gone, messages.ERROR)
            return
        self.log_change(request, kept, f"Merged {names} into it.")
        parts = "1 part" if moved == 1 else f"{moved} parts"
        self.message_user(request, f"Merged {names} into “{kept.name}”: {parts} moved.")
