"""The REST endpoints of types, parts, their attachments and covers."""

from __future__ import annotations

import hashlib
import logging
from functools import partial
from typing import Any

from django.db import DatabaseError, transaction
from django.db.models import Model, ProtectedError, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.views.decorators.csrf import csrf_exempt
from rest_framework import generics, mixins, serializers, status
from rest_framework.exceptions import APIException, ErrorDetail, ValidationError
from rest_framework.pagination import PageNumberPagination
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from attachments.locks import retried
from attachments.models import Attachment, Change, Versioned
from attachments.references import SourceGone
from attachments.serializers import AttachmentSerializer, StrictSerializer, UploadInput, unknown
from attachments.uploads import UploadRefused, stage
from cas.conf import serving
from cas.http import Match, match_etags
from cas.responses import error_response, translate_errors
from cas.signed_urls import BlobQuery, ThumbnailQuery, parse_query, verify
from cas.storage.base import Absent, StoreError
from cas.views import deliver
from parts.covers import NotACover, attach, attach_url, copy, set_cover
from parts.filters import PartQuery, filtered
from parts.models import Part, Tag, Type
from parts.restore import NotRestorable, restore
from parts.serializers import CopyInput, CoverInput, PartSerializer, TypeSerializer
from parts.tags import names_in_order, prefetched, set_tags
from parts.updates import Cursor, Expired, history, shown, updates

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
    """Refuses query parameters that it does not have, and single ones that are given twice.

    `permissions` are those that each method needs, where there are accounts.
    """

    permissions: Permissions = {}
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

Permissions = dict[str, tuple[str, ...]]


def of_rows(model: str) -> Permissions:
    """What each method needs of Django's permissions, where it does what its name says."""
    label, _, name = model.partition(".")
    actions = {
        "GET": "view",
        "POST": "add",
        "PUT": "change",
        "PATCH": "change",
        "DELETE": "delete",
    }
    return {method: (f"{label}.{action}_{name}",) for method, action in actions.items()}


OF_TYPES = of_rows("parts.type")
OF_PARTS = of_rows("parts.part")
OF_ATTACHMENTS = of_rows("attachments.attachment")
CHANGES_A_PART = ("parts.change_part",)

VALIDATED = {"Cache-Control": "private, no-cache"}
"""What shows a row is asked for again each time, and answered 304 while it is as it was."""


class ChangedSince(APIException):
    """The row is not in the version that `If-Match` names any more."""

    status_code = status.HTTP_412_PRECONDITION_FAILED
    default_code = "precondition_failed"


def etag_of(row: Versioned) -> str:
    """The entity tag (RFC 9110, 8.8.3) of what is shown of a row."""
    return f'"{row.version}"'


class VersionedView(StrictView, generics.RetrieveUpdateDestroyAPIView[Any]):
    """One row: shown with its ETag, and written under its lock if it is as the client knows it.

    `If-Match` with another tag is a 412, `If-None-Match` with this one a 304 (RFC 9110, 13.1). What
    is shown after a write is read once that is committed.
    """

    def get_object(self) -> Any:
        return get_object_or_404(self.get_queryset(), **self.kwargs)

    def retrieve(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        row = self.get_object()
        headers = {**VALIDATED, "ETag": etag_of(row)}
        known = request.headers.get("If-None-Match", "")
        if match_etags(known, headers["ETag"], weak=True) is not Match.NONE:
            return Response(status=status.HTTP_304_NOT_MODIFIED, headers=headers)
        return Response(self.get_serializer(row).data, headers=headers)

    def update(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        self._write(request, partial=kwargs.get("partial", False))
        return self._shown()

    def destroy(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        self._delete(request)
        return Response(status=status.HTTP_204_NO_CONTENT)

    @retried
    def _write(self, request: Request, *, partial: bool) -> None:
        with transaction.atomic():
            serializer = self.get_serializer(
                self.locked(request), data=request.data, partial=partial
            )
            serializer.is_valid(raise_exception=True)
            serializer.save()

    @retried
    def _delete(self, request: Request) -> None:
        with transaction.atomic():
            self.perform_destroy(self.locked(request))

    def locked(self, request: Request) -> Any:
        """The row, read under its lock. Raises ChangedSince, Http404."""
        lock_row(self.get_queryset().model, **self.kwargs)
        row = self.get_object()
        check_if_match(request, row)
        return row

    def _shown(self) -> Response:
        row = self.get_object()
        headers = {**VALIDATED, "ETag": etag_of(row)}
        return Response(self.get_serializer(row).data, headers=headers)


def lock_row(model: type[Model], **lookup: Any) -> None:
    """Lock a row until the transaction ends. Raises Http404."""
    rows = model._base_manager.select_for_update(no_key=True)
    get_object_or_404(rows.only("pk"), **lookup)


def check_if_match(request: Request, row: Versioned) -> None:
    """Raises ChangedSince unless the row is as the client says that it is, if it says so."""
    known = request.headers.get("If-Match")
    if known is not None and match_etags(known, etag_of(row), weak=False) is Match.NONE:
        raise ChangedSince(
            f"It was changed since; its version is {row.version} now. Read it again."
        )


class InUse(APIException):
    """Something else still refers to what was to be deleted."""

    status_code = status.HTTP_409_CONFLICT
    default_code = "in_use"


class Refused(APIException):
    """An upload was refused; status and code are the refusal's."""

    def __init__(self, refusal: UploadRefused) -> None:
        self.status_code = refusal.status
        self.detail = ErrorDetail(str(refusal), code=refusal.code)
        self.wait = serving().retry_after if refusal.status == 503 else None


class TypeList(StrictView, generics.ListCreateAPIView[Type]):
    """Types by name. POST of a name that is there, however it is written, answers that one."""

    PARAMETERS = PAGES
    permissions = OF_TYPES
    serializer_class = TypeSerializer
    pagination_class = Pages
    queryset = Type.objects.order_by("folded")

    def create(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        serializer = self.get_serializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        found, is_new = Type.named(serializer.validated_data["name"])
        code = status.HTTP_201_CREATED if is_new else status.HTTP_200_OK
        return Response(self.get_serializer(found).data, code)


class TypeDetail(VersionedView):
    permissions = OF_TYPES
    serializer_class = TypeSerializer
    queryset = Type.objects.all()

    def perform_destroy(self, instance: Type) -> None:
        try:
            instance.delete()
        except ProtectedError as error:
            count = instance.parts.count()
            raise InUse(f"{count} parts are of this type; give them another first") from error


class PartList(StrictView, generics.ListCreateAPIView[Part]):
    """Parts, filtered and by pages; with `updated_since`, what was changed since a cursor."""

    PARAMETERS = ("search", "type", "has_cover", "ordering", "updated_since", *PAGES)
    REPEATABLE = ("tag",)
    permissions = OF_PARTS
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

    def list(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        if "updated_since" not in request.query_params:
            return super().list(request, *args, **kwargs)
        if others := set(request.query_params) - {"updated_since", "page_size"}:
            fault = ErrorDetail("This does not go together with updated_since.", "invalid")
            raise ValidationError({name: [fault] for name in others})
        try:
            since = Cursor.parse(request.query_params["updated_since"])
        except ValueError as error:
            fault = ErrorDetail("This is now, or the cursor of an answer.", "invalid")
            raise ValidationError({"updated_since": [fault]}) from error
        try:
            found = updates(since, Pages().get_page_size(request))
        except Expired as error:
            told = "What was changed since is not known. Take a new cursor, and read everything."
            raise CursorExpired(told) from error
        rows = PartDetail.queryset.filter(pk__in=found.parts).order_by("pk")
        body = {
            "results": self.get_serializer(rows, many=True).data,
            "deleted": found.deleted,
            "cursor": str(found.cursor),
            "more": found.more,
        }
        return Response(body, headers={"Cache-Control": "no-store"})


class CursorExpired(APIException):
    """The history does not reach back to the cursor."""

    status_code = status.HTTP_410_GONE
    default_code = "cursor_expired"


class PartDetail(VersionedView):
    permissions = OF_PARTS
    serializer_class = PartSerializer
    queryset = Part.objects.select_related("type", "cover_attachment").prefetch_related(
        prefetched()
    )


class PartHistory(StrictView, generics.GenericAPIView[Change]):
    """Who changed what of a part, its tags and attachments, and when; the newest first."""

    PARAMETERS = PAGES
    permissions = {"GET": (*OF_PARTS["GET"], *OF_ATTACHMENTS["GET"])}
    pagination_class = Pages

    def get(self, request: Request, key: str) -> Response:
        part = get_object_or_404(Part, key=key)
        page = self.paginate_queryset(history(part))
        return self.get_paginated_response([shown(change) for change in page or ()])


class RestoreInput(StrictSerializer):
    fields = serializers.ListField(  # type: ignore[assignment]
        child=serializers.CharField(max_length=100),
        required=False,
        allow_empty=False,
        max_length=100,
    )


class RestoreChange(StrictView):
    """POST takes a change back; with `fields`, makes those as they were before it."""

    permissions = {"POST": (*OF_PARTS["PATCH"], *OF_ATTACHMENTS["PATCH"])}

    def post(self, request: Request, key: str, change_id: int) -> Response:
        part = get_object_or_404(Part, key=key)
        given = RestoreInput(data=request.data)
        given.is_valid(raise_exception=True)
        fields = given.validated_data.get("fields")
        try:
            restore(part.pk, change_id, fields, check=partial(check_if_match, request))
        except Change.DoesNotExist as error:
            raise Http404("this part has no such change") from error
        except NotRestorable as error:
            raise CannotRestore(str(error)) from error
        return _part_shown(key)


class CannotRestore(APIException):
    """The change cannot be taken back as things are."""

    status_code = status.HTTP_409_CONFLICT
    default_code = "not_restorable"


class AttachmentList(StrictView, mixins.ListModelMixin, generics.GenericAPIView[Attachment]):
    """A part's attachments; POST uploads a file (multipart) or adds a link (JSON)."""

    permissions = OF_ATTACHMENTS
    takes_uploads = True
    serializer_class = AttachmentSerializer

    def get_queryset(self) -> QuerySet[Attachment]:
        part = get_object_or_404(Part, key=self.kwargs["key"])
        return Attachment.objects.filter(part=part).select_related("part")

    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return self.list(request, *args, **kwargs)

    def post(self, request: Request, key: str) -> Response:
        part = get_object_or_404(Part, key=key)
        files = request.FILES.getlist("file")
        if len(files) > 1:
            return self._post_several(part, request.data, files)
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

    def _post_several(self, part: Part, data: Any, files: list[Any]) -> Response:
        """Several files: each has an outcome of its own, and one that is refused stops no other."""
        others = UploadInput(data={name: data.get(name) for name in data})
        others.is_valid(raise_exception=True)
        if others.validated_data["title"]:
            fault = ErrorDetail("Several files have no title in common.", code="title_of_several")
            raise ValidationError({"title": [fault]})
        results = []
        for file in files:
            outcome: dict[str, Any] = {"filename": file.name}
            try:
                row = attach(part, stage(file), "")
            except (UploadRefused, StoreError, DatabaseError, Part.DoesNotExist) as error:
                refusal = Refused(error) if isinstance(error, UploadRefused) else error
                response = self.handle_exception(refusal)
                outcome |= {"status": response.status_code, **(response.data or {})}
            else:
                shown = AttachmentSerializer(row).data
                outcome |= {"status": status.HTTP_201_CREATED, "attachment": shown}
            results.append(outcome)
        return Response({"results": results})


class PartTag(StrictView):
    """One tag of a part: POST puts it on the part behind the others, DELETE takes it off."""

    permissions = {"POST": CHANGES_A_PART, "DELETE": CHANGES_A_PART}

    def post(self, request: Request, key: str, name: str) -> Response:
        return _part_shown(key, added=self._add(key, name))

    @retried
    def _add(self, key: str, name: str) -> bool:
        with transaction.atomic():
            part = _locked_part(key)
            before = names_in_order(part.tags)
            if part.tags.filter(folded=Tag.folded_name(name)).exists():
                return False
            given = PartSerializer(part, data={"tags": [*before, name]}, partial=True)
            given.is_valid(raise_exception=True)
            set_tags(part, given.validated_data["tags"])
            return True

    def delete(self, request: Request, key: str, name: str) -> Response:
        self._remove(key, name)
        return _part_shown(key)

    @retried
    def _remove(self, key: str, name: str) -> None:
        with transaction.atomic():
            part = _locked_part(key)
            part.tags.remove(get_object_or_404(part.tags, folded=Tag.folded_name(name)))


def _locked_part(key: str) -> Part:
    return get_object_or_404(Part.objects.select_for_update(no_key=True), key=key)


def _part_shown(key: str, *, added: bool = False) -> Response:
    part = get_object_or_404(PartDetail.queryset.all(), key=key)
    code = status.HTTP_201_CREATED if added else status.HTTP_200_OK
    headers = {**VALIDATED, "ETag": etag_of(part)}
    return Response(PartSerializer(part).data, code, headers=headers)


class AttachmentDetail(VersionedView):
    """One attachment. PUT and PATCH change its title; DELETE leaves the blob to the collector."""

    permissions = OF_ATTACHMENTS
    serializer_class = AttachmentSerializer
    queryset = Attachment.objects.select_related("part")

    def get_object(self) -> Attachment:
        rows: QuerySet[Attachment] = self.get_queryset()
        return get_object_or_404(rows, part__key=self.kwargs["key"], pk=self.kwargs["pk"])

    def locked(self, request: Request) -> Attachment:
        """The part is locked before its attachment."""
        lock_row(Part, key=self.kwargs["key"])
        lock_row(Attachment, pk=self.kwargs["pk"], part__key=self.kwargs["key"])
        row = self.get_object()
        check_if_match(request, row)
        return row


@csrf_exempt
@translate_errors
def content(request: HttpRequest, key: str, pk: int) -> HttpResponseBase:
    """A file's bytes while its row is on its old key; a redirect to the CAS once it has moved."""
    if request.method not in ("GET", "HEAD"):
        message = "This can only be read."
        return error_response(request, 405, "method_not_allowed", message, {"Allow": "GET, HEAD"})
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
            # By the object, as an id may be given again: by hand, or by a database set back.
            cache_name=hashlib.sha256((row.s3_key or "").encode()).hexdigest()[:32],
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

    permissions = {
        "GET": OF_ATTACHMENTS["GET"],
        "PUT": CHANGES_A_PART,
        "DELETE": CHANGES_A_PART,
    }

    def get(self, request: Request, key: str) -> Response:
        part = get_object_or_404(Part.objects.select_related("cover_attachment"), key=key)
        if part.cover_attachment is None:
            raise Http404("this part has no cover")
        return Response(AttachmentSerializer(part.cover_attachment).data)

    def put(self, request: Request, key: str) -> Response:
        part = get_object_or_404(Part, key=key)
        given = CoverInput(data=request.data)
        given.is_valid(raise_exception=True)
        try:
            row = set_cover(part.pk, given.validated_data["attachment_id"])
        except Attachment.DoesNotExist as error:
            fault = ErrorDetail("No such attachment here.", "not_found")
            raise ValidationError({"attachment_id": fault}) from error
        except NotACover as error:
            fault = ErrorDetail(str(error), "not_an_image")
            raise ValidationError({"attachment_id": fault}) from error
        return Response(AttachmentSerializer(row).data)

    def delete(self, request: Request, key: str) -> Response:
        set_cover(get_object_or_404(Part, key=key).pk, None)
        return Response(status=status.HTTP_204_NO_CONTENT)


class CopyAttachment(StrictView):
    """Attach a stored blob, or a link, to another part. No bytes move."""

    permissions = {"POST": OF_ATTACHMENTS["POST"]}

    def post(self, request: Request) -> Response:
        given = CopyInput(data=request.data)
        given.is_valid(raise_exception=True)
        target = get_object_or_404(Part, key=given.validated_data["target_part_key"])
        as_cover = given.validated_data["set_as_cover"]
        try:
            row = copy(given.validated_data["attachment_id"], target, as_cover=as_cover)
        except SourceGone as error:
            raise Http404("there is no such attachment") from error
        except NotACover as error:
            fault = ErrorDetail(str(error), "not_an_image")
            raise ValidationError({"set_as_cover": fault}) from error
        return Response(AttachmentSerializer(row).data, status=status.HTTP_201_CREATED)
