"""Routes of parts, types and covers, below `/api/`."""

from django.urls import path

from attachments.urls import PART
from parts import views

urlpatterns = [
    path("types", views.TypeList.as_view(), name="type-list"),
    path("types/<int:pk>", views.TypeDetail.as_view(), name="type-detail"),
    path("parts", views.PartList.as_view(), name="part-list"),
    path("parts/copy-attachment", views.CopyAttachment.as_view(), name="copy-attachment"),
    path(PART, views.PartDetail.as_view(), name="part-detail"),
    path(f"{PART}/cover", views.Cover.as_view(), name="part-cover"),
]
