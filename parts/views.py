"""The REST endpoints of parts, types and covers, and the copying of attachments between parts."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.db.models import ProtectedError, QuerySet
from django.http import Http404
from django.shortcuts import get_object_or_404
from rest_framework import generics, status
from rest_framework.exceptions import APIException, ErrorDetail, ValidationError
from rest_framework.pagination import PageNumberPagination
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from attachments import references
from attachments.models import Attachment
from attachments.serializers import AttachmentSerializer
from parts.covers import NotACover, set_cover
from parts.filters import PartQuery, filtered
from parts.models import Part, Type
from parts.serializers import CopyInput, CoverInput, PartSerializer, TypeSerializer
from parts.tags import prefetched


class Pages(PageNumberPagination):
    """`page` and `page_size`; a page that does not exist is a 404."""

    page_size = 50
    page_size_query_param = "page_size"
    max_page_size = 500


class InUse(APIException):
    """Something else still refers to what was to be deleted."""

    status_code = status.HTTP_409_CONFLICT
    default_code = "in_use"


class TypeList(generics.ListCreateAPIView[Type]):
    serializer_class = TypeSerializer
    pagination_class = Pages
    queryset = Type.objects.order_by("name")


class TypeDetail(generics.RetrieveUpdateDestroyAPIView[Type]):
    serializer_class = TypeSerializer
    queryset = Type.objects.all()

    def perform_destroy(self, instance: Type) -> None:
        try:
            instance.delete()
        except ProtectedError as error:
            count = instance.parts.count()
            raise InUse(f"{count} parts are of this type; give them another first") from error


class PartList(generics.ListCreateAPIView[Part]):
    serializer_class = PartSerializer
    pagination_class = Pages

    def get_queryset(self) -> QuerySet[Part]:
        given: dict[str, Any] = self.request.query_params.dict()
        if tags := self.request.query_params.getlist("tag"):
            given["tag"] = tags
        asked = PartQuery(data=given)
        asked.is_valid(raise_exception=True)
        parts = Part.objects.select_related("type", "cover_attachment").prefetch_related(
            prefetched()
        )
        return filtered(parts, asked.validated_data)


class PartDetail(generics.RetrieveUpdateDestroyAPIView[Part]):
    serializer_class = PartSerializer
    lookup_field = "key"
    queryset = Part.objects.select_related("type", "cover_attachment").prefetch_related(
        prefetched()
    )


class Cover(APIView):
    """A part's cover: GET its attachment, PUT `attachment_id` to choose it, DELETE to have none."""

    def get(self, request: Request, key: str) -> Response:
        part = get_object_or_404(Part.objects.select_related("cover_attachment"), key=key)
        if part.cover_attachment is None:
            raise Http404("this part has no cover")
        return Response(AttachmentSerializer(part.cover_attachment).data)

    def put(self, request: Request, key: str) -> Response:
        part = get_object_or_404(Part, key=key)
        given = CoverInput(data=request.data)
        given.is_valid(raise_exception=True)
        with transaction.atomic():
            # Locked, so that the attachment cannot be deleted while it becomes the cover.
            rows = Attachment.objects.select_for_update().filter(part=part)
            row = rows.filter(pk=given.validated_data["attachment_id"]).first()
            if row is None:
                raise ValidationError(
                    {"attachment_id": ErrorDetail("No such attachment here.", "not_found")}
                )
            try:
                set_cover(part, row)
            except NotACover as error:
                raise ValidationError(
                    {"attachment_id": ErrorDetail(str(error), "not_an_image")}
                ) from error
        return Response(AttachmentSerializer(row).data)

    def delete(self, request: Request, key: str) -> Response:
        set_cover(get_object_or_404(Part, key=key), None)
        return Response(status=status.HTTP_204_NO_CONTENT)


class CopyAttachment(APIView):
    """Attach a stored blob, or a link, to another part. No bytes move."""

    def post(self, request: Request) -> Response:
        given = CopyInput(data=request.data)
        given.is_valid(raise_exception=True)
        asked = given.validated_data
        target = get_object_or_404(Part, key=asked["target_part_key"])
        with transaction.atomic():
            try:
                row = references.copy(asked["attachment_id"], target)
            except references.SourceGone as error:
                raise Http404("there is no such attachment") from error
            if asked["set_as_cover"]:
                try:
                    set_cover(target, row)
                except NotACover as error:
                    raise ValidationError(
                        {"set_as_cover": ErrorDetail(str(error), "not_an_image")}
                    ) from error
        return Response(AttachmentSerializer(row).data, status=status.HTTP_201_CREATED)
