"""The REST endpoints of a part's attachments."""

from __future__ import annotations

import logging
from http import HTTPStatus
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
from cas.errors import error_response, not_signed
from cas.links import permits
from cas.views import (
    BadQuery,
    BlobQuery,
    ThumbnailQuery,
    deliver_blob,
    deliver_thumbnail,
    parse_query,
)

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
def content(request: HttpRequest, key: str, pk: int) -> HttpResponseBase:
    """A file's bytes while its row is on its old key; a redirect to the CAS once it has moved."""
    try:
        query = parse_query(request.GET)
    except BadQuery as error:
        return error_response(request, 400, "bad_request", f"{error}.")
    if not permits(request.path, query, request.META.get("QUERY_STRING", "")):
        return not_signed(request)
    row = _file_row_or_404(key, pk)
    if row.digest is not None:
        return _moved(row, query)
    response = _deliver_legacy(request, row, query)
    if response.status_code == HTTPStatus.NOT_FOUND:
        # Between our look at the row and at the store it may have moved and been cleaned up.
        row = _file_row_or_404(key, pk)
        if row.digest is not None:
            return _moved(row, query)
    return response


def _file_row_or_404(key: str, pk: int) -> Attachment:
    rows = Attachment.objects.filter(s3_key__isnull=False).select_related("part")
    row = get_object_or_404(rows, part__key=key, pk=pk)
    if row.digest is None and not row.is_legacy:
        logger.error("integrity error: attachment %s has the key %r", row.pk, row.s3_key)
        raise Http404
    return row


def _deliver_legacy(
    request: HttpRequest, row: Attachment, query: BlobQuery | ThumbnailQuery
) -> HttpResponseBase:
    old_key = row.s3_key or ""
    if isinstance(query, ThumbnailQuery):
        return deliver_thumbnail(
            request,
            key=old_key,
            cache_name=str(row.pk),
            size=query.size,
            etag=None,
            cache_control=TRANSITIONAL_CACHE_CONTROL,
        )
    return deliver_blob(
        request,
        key=old_key,
        etag=None,
        content_type=query.content_type,
        disposition=query.disposition,
        filename=query.filename,
        cache_control=TRANSITIONAL_CACHE_CONTROL,
    )


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
