"""Routes of a part's attachments, below `/api/`."""

from django.urls import path, register_converter
from django.urls.converters import StringConverter

from attachments import views


class PartKey(StringConverter):
    """A part's key; what cannot be one is not found, without asking the database."""

    regex = "[A-Z]{4}"


register_converter(PartKey, "part_key")
PART = "parts/<part_key:key>"

urlpatterns = [
    path(f"{PART}/attachments", views.AttachmentList.as_view(), name="attachment-list"),
    path(
        f"{PART}/attachments/<int:pk>",
        views.AttachmentDetail.as_view(),
        name="attachment-detail",
    ),
    path(f"{PART}/attachments/<int:pk>/content", views.content, name="attachment-content"),
]
