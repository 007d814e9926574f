"""Routes of types, parts, their attachments and covers, below `/api/`."""

from django.urls import path, register_converter

from parts import views


class PartKey:
    """A part's key in either case; what cannot be one is not found, without a query."""

    regex = "[A-Za-z]{4}"
    to_python = staticmethod(str.upper)
    to_url = staticmethod(str)


register_converter(PartKey, "part_key")
PART = "parts/<part_key:key>"
ATTACHMENT = f"{PART}/attachments/<int:pk>"

urlpatterns = [
    path("types", views.TypeList.as_view(), name="type-list"),
    path("types/<int:pk>", views.TypeDetail.as_view(), name="type-detail"),
    path("parts", views.PartList.as_view(), name="part-list"),
    path("parts/copy-attachment", views.CopyAttachment.as_view(), name="copy-attachment"),
    path(PART, views.PartDetail.as_view(), name="part-detail"),
    path(f"{PART}/tags/<path:name>", views.PartTag.as_view(), name="part-tag"),
    path(f"{PART}/history", views.PartHistory.as_view(), name="part-history"),
    path(
        f"{PART}/history/<int:change_id>/restore",
        views.RestoreChange.as_view(),
        name="restore-change",
    ),
    path(f"{PART}/cover", views.Cover.as_view(), name="part-cover"),
    path(f"{PART}/attachments", views.AttachmentList.as_view(), name="attachment-list"),
    path(ATTACHMENT, views.AttachmentDetail.as_view(), name="attachment-detail"),
    path(f"{ATTACHMENT}/content", views.content, name="attachment-content"),
]
