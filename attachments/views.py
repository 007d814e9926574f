"""The REST endpoints of a part's attachments."""

from __future__ import annotations

import logging
from typing import Any, cast

from django.apps import apps
from django.db import models
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.views.decorators.http import require_safe
from rest_framework import generics, mixins, status
from rest_framework.exceptions import APIException, ErrorDetail
from rest_framework.request import Request
from rest_framework.response import Response

from attachments import references
from attachments.links import content_url, thumbnail
from attachments.models import Attachment
from attachments.serializers import AttachmentSerializer, UploadInput
from attachments.uploads import ReceivedFile, UploadRefused, stage
from cas.responses import translate_errors
from cas.signed_urls import BlobQuery, ThumbnailQuery, parse_query, verify
from cas.storage.base import Absent
from cas.views import deliver

logger = logging.getLogger(__name__)

TRANSITIONAL_CACHE_CONTROL = "private, no-cache"
"""The URL of a row on its old key answers something else once the row has moved."""


class Refused(APIException):
    """An upload was refused; status and code are the refusal's."""

    def __init__(self, refusal: UploadRefused) -> None:
        self.status_code = refusal.status
        self.detail = ErrorDetail(str(refusal), code=refusal.code)


def part_or_404(key: str) -> Any:
    """The part with this key. It is looked up by name: imports point from parts to here."""
    return get_object_or_404(cast(type[models.Model], apps.get_model("parts", "Part")), key=key)


class AttachmentList(mixins.ListModelMixin, generics.GenericAPIView[Attachment]):
    """A part's attachments; POST uploads a file (multipart) or adds a link (JSON)."""

    serializer_class = AttachmentSerializer

    def get_queryset(self) -> models.QuerySet[Attachment]:
        part = part_or_404(self.kwargs["key"])
        return Attachment.objects.filter(part=part).select_related("part")

    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return self.list(request, *args, **kwargs)

    def post(self, request: Request, key: str) -> Response:
        part = part_or_404(key)
        given = UploadInput(data=request.data)
        given.is_valid(raise_exception=True)
        title = given.validated_data["title"]
        if "url" in given.validated_data:
            row = references.attach_url(part, given.validated_data["url"], title)
        else:
            row = upload(part, given.validated_data["file"], title)
        shown = AttachmentSerializer(row).data
        return Response(shown, status=status.HTTP_201_CREATED)


def upload(part: Any, received: ReceivedFile, title: str) -> Attachment:
    """Attach a received file. Raises Refused for one that is not accepted, and StoreError."""
    try:
        staged = stage(received)
    except UploadRefused as refusal:
        raise Refused(refusal) from refusal
    return references.attach(part, staged, title)


class AttachmentDetail(generics.RetrieveUpdateDestroyAPIView[Attachment]):
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
        thumbnail(row, query.size)
        if isinstance(query, ThumbnailQuery)
        else content_url(row, query.disposition)
    )
    response = HttpResponseRedirect(location)
    response["Cache-Control"] = TRANSITIONAL_CACHE_CONTROL
    return response
