"""The REST endpoints of types, parts, their attachments and covers."""

from __future__ import annotations

import logging
from typing import Any

from django.db import transaction
from django.db.models import ProtectedError, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.views.decorators.http import require_safe
from rest_framework import generics, mixins, status
from rest_framework.exceptions import APIException, ErrorDetail, ValidationError
from rest_framework.pagination import PageNumberPagination
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from attachments.models import Attachment
from attachments.references import SourceGone
from attachments.serializers import AttachmentSerializer, UploadInput, unknown
from attachments.uploads import UploadRefused, stage
from cas.responses import translate_errors
from cas.signed_urls import BlobQuery, ThumbnailQuery, parse_query, verify
from cas.storage.base import Absent
from cas.views import deliver
from parts.covers import NotACover, attach, attach_url, copy, set_cover
from parts.filters import PartQuery, filtered
from parts.models import Part, Type
from parts.serializers import CopyInput, CoverInput, PartSerializer, TypeSerializer
from parts.tags import prefetched

logger = logging.getLogger(__name__)

TRANSITIONAL_CACHE_CONTROL = "private, no-cache"
"""The URL of a row on its old key answers something else once the row has moved."""


class Pages(PageNumberPagination):
    """`page` and `page_size`; a page that does not exist is a 404."""

    page_size = 50
    page_size_query_param = "page_size"
    max_page_size = 500

    def get_page_size(self, request: Request) -> int:
        given = request.query_params.get("page_size")
        if given is None:
            return self.page_size
        if not (given.isascii() and given.isdigit() and 1 <= int(given[:9]) <= self.max_page_size):
            fault = ErrorDetail(f"A whole number from 1 to {self.max_page_size}.", "invalid")
            raise ValidationError({"page_size": [fault]})
        return int(given)


class StrictView(APIView):
    """Refuses query parameters that it does not have, and single ones that are given twice."""

    PARAMETERS: tuple[str, ...] = ()
    REPEATABLE: tuple[str, ...] = ()

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        known = (*self.PARAMETERS, *self.REPEATABLE)
        faults: dict[str, list[ErrorDetail]] = {}
        for name, values in request.query_params.lists():
            if name not in known:
                faults[name] = [unknown(name, known, code="unknown_parameter")]
            elif len(values) > 1 and name not in self.REPEATABLE:
                faults[name] = [ErrorDetail("This is given more than once.", code="repeated")]
        if faults:
            raise ValidationError(faults)


PAGES = ("page", "page_size")


class InUse(APIException):
    """Something else still refers to what was to be deleted."""

    status_code = status.HTTP_409_CONFLICT
    default_code = "in_use"


class Refused(APIException):
    """An upload was refused; status and code are the refusal's."""

    def __init__(self, refusal: UploadRefused) -> None:
        self.status_code = refusal.status
        self.detail = ErrorDetail(str(refusal), code=refusal.code)


class TypeList(StrictView, generics.ListCreateAPIView[Type]):
    PARAMETERS = PAGES
    serializer_class = TypeSerializer
    pagination_class = Pages
    queryset = Type.objects.order_by("name")


class TypeDetail(StrictView, generics.RetrieveUpdateDestroyAPIView[Type]):
    serializer_class = TypeSerializer
    queryset = Type.objects.all()

    def perform_destroy(self, instance: Type) -> None:
        try:
            instance.delete()
        except ProtectedError as error:
            count = instance.parts.count()
            raise InUse(f"{count} parts are of this type; give them another first") from error


class PartList(StrictView, generics.ListCreateAPIView[Part]):
    PARAMETERS = ("search", "type", "has_cover", "ordering", *PAGES)
    REPEATABLE = ("tag",)
    serializer_class = PartSerializer
    pagination_class = Pages

    def get_queryset(self) -> QuerySet[Part]:
        given: dict[str, Any] = self.request.query_params.dict()
        if tags := self.request.query_params.getlist("tag"):
            given["tag"] = tags
        query = PartQuery(data=given)
        query.is_valid(raise_exception=True)
        parts = Part.objects.select_related("type", "cover_attachment").prefetch_related(
            prefetched()
        )
        return filtered(parts, query.validated_data)


class PartDetail(StrictView, generics.RetrieveUpdateDestroyAPIView[Part]):
    serializer_class = PartSerializer
    lookup_field = "key"
    queryset = Part.objects.select_related("type", "cover_attachment").prefetch_related(
        prefetched()
    )


class AttachmentList(StrictView, mixins.ListModelMixin, generics.GenericAPIView[Attachment]):
    """A part's attachments; POST uploads a file (multipart) or adds a link (JSON)."""

    serializer_class = AttachmentSerializer

    def get_queryset(self) -> QuerySet[Attachment]:
        part = get_object_or_404(Part, key=self.kwargs["key"])
        return Attachment.objects.filter(part=part).select_related("part")

    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return self.list(request, *args, **kwargs)

    def post(self, request: Request, key: str) -> Response:
        part = get_object_or_404(Part, key=key)
        given = UploadInput(data=request.data)
        given.is_valid(raise_exception=True)
        title = given.validated_data["title"]
        if "url" in given.validated_data:
            row = attach_url(part, given.validated_data["url"], title)
        else:
            try:
                staged = stage(given.validated_data["file"])
            except UploadRefused as refusal:
                raise Refused(refusal) from refusal
            row = attach(part, staged, title)
        shown = AttachmentSerializer(row).data
        return Response(shown, status=status.HTTP_201_CREATED)


class AttachmentDetail(StrictView, generics.RetrieveUpdateDestroyAPIView[Attachment]):
    """One attachment. PUT and PATCH change its title; DELETE leaves the blob to the collector."""

    serializer_class = AttachmentSerializer

    def get_object(self) -> Attachment:
        rows = Attachment.objects.select_related("part")
        return get_object_or_404(rows, part__key=self.kwargs["key"], pk=self.kwargs["pk"])


@require_safe
@translate_errors
def content(request: HttpRequest, key: str, pk: int) -> HttpResponseBase:
    """A file's bytes while its row is on its old key; a redirect to the CAS once it has moved."""
    query = parse_query(request.GET)
    verify(request.path, query, request.META.get("QUERY_STRING", ""))
    row = _file_row_or_404(key, pk)
    if row.digest is not None:
        return _moved(row, query)
    try:
        return deliver(
            request,
            row.s3_key or "",
            query,
            etag=None,
            cache_name=str(row.pk),
            cache_control=TRANSITIONAL_CACHE_CONTROL,
        )
    except Absent:
        # After the row was read it may have been migrated and its old object cleaned up.
        row = _file_row_or_404(key, pk)
        if row.digest is None:
            raise
        return _moved(row, query)


def _file_row_or_404(key: str, pk: int) -> Attachment:
    rows = Attachment.objects.filter(s3_key__isnull=False).select_related("part")
    row = get_object_or_404(rows, part__key=key, pk=pk)
    if row.digest is None and not row.is_legacy:
        logger.error("integrity error: attachment %s has the key %r", row.pk, row.s3_key)
        raise Http404
    return row


def _moved(row: Attachment, query: BlobQuery | ThumbnailQuery) -> HttpResponse:
    """302 to the CAS URL; its name and type are the row's own, so no caller gets to sign others."""
    location = (
        row.thumbnail_url(query.size)
        if isinstance(query, ThumbnailQuery)
        else row.content_url(query.disposition)
    )
    response = HttpResponseRedirect(location)
    response["Cache-Control"] = TRANSITIONAL_CACHE_CONTROL
    return response


class Cover(StrictView):
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


class CopyAttachment(StrictView):
    """Attach a stored blob, or a link, to another part. No bytes move."""

    def post(self, request: Request) -> Response:
        given = CopyInput(data=request.data)
        given.is_valid(raise_exception=True)
        target = get_object_or_404(Part, key=given.validated_data["target_part_key"])
        with transaction.atomic():
            try:
                row = copy(given.validated_data["attachment_id"], target)
            except SourceGone as error:
                raise Http404("there is no such attachment") from error
            if given.validated_data["set_as_cover"]:
                try:
                    set_cover(target, row)
                except NotACover as error:
                    raise ValidationError(
                        {"set_as_cover": ErrorDetail(str(error), "not_an_image")}
                    ) from error
        return Response(AttachmentSerializer(row).data, status=status.HTTP_201_CREATED)
