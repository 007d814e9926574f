"""What the admin's pages show of an attachment. Whatever users wrote is escaped on the way."""

from __future__ import annotations

from urllib.parse import urlsplit

from django.template.defaultfilters import filesizeformat
from django.utils.html import format_html
from django.utils.safestring import SafeString

from attachments.models import Attachment
from cas.conf import serving

LARGE_PREVIEW = 480
"""Pixels of the picture on an attachment's own page; the cache keeps a base of this size."""

DIGEST_SHOWN = 12
"""Digits of a digest that a list shows; 48 bits tell any two blobs of a collection apart."""


def preview(attachment: Attachment) -> SafeString:
    """A thumbnail that leads to the picture; a label for what has none."""
    found = attachment.links()
    if not attachment.is_file:
        return _link_picture(found.thumbnail, attachment) if found.thumbnail else _badge(attachment)
    if found.view is None:
        return format_html('<span class="attachment-badge attachment-damaged">{}</span>', "damaged")
    return format_html(
        '<a class="attachment-preview" href="{}" target="_blank" rel="noopener">{}</a>',
        found.view,
        picture(found.thumbnail, attachment.title) if found.thumbnail else _badge(attachment),
    )


def large_preview(attachment: Attachment) -> SafeString:
    """As `preview`, but as large as this installation's thumbnails are allowed to be."""
    found = attachment.links()
    sizes = serving().thumbnail_sizes
    if found.thumbnail is None or (sizes and LARGE_PREVIEW not in sizes):
        return preview(attachment)
    if found.view is None:
        return _link_picture(
            attachment.thumbnail_url(LARGE_PREVIEW), attachment, "attachment-large"
        )
    return format_html(
        '<a class="attachment-preview attachment-large" href="{}" target="_blank" '
        'rel="noopener">{}</a>',
        found.view,
        picture(attachment.thumbnail_url(LARGE_PREVIEW), attachment.title),
    )


def picture(url: str, title: str) -> SafeString:
    """An image that is fetched when it comes into view."""
    return format_html('<img src="{}" alt="{}" loading="lazy">', url, title)


def file_links(attachment: Attachment) -> SafeString:
    """Links to view and to download the file; the address itself for a link."""
    if not attachment.is_file:
        return web_link(attachment.url or "")
    found = attachment.links()
    if found.view is None or found.download is None:
        return format_html('<span class="attachment-damaged">{}</span>', "damaged key")
    return format_html(
        '<a href="{}" target="_blank" rel="noopener">View</a> · <a href="{}">Download</a>',
        found.view,
        found.download,
    )


def web_link(url: str) -> SafeString:
    """A link, if it is one to the web: a `javascript:` address in an older row stays text."""
    try:
        scheme = urlsplit(url).scheme.lower()
    except ValueError:
        scheme = ""
    if scheme not in {"http", "https"}:
        return format_html("{}", url)
    return format_html(
        '<a class="attachment-link" href="{}" target="_blank" rel="noopener noreferrer">{}</a>',
        url,
        url,
    )


def size(attachment: Attachment) -> str:
    """The size for people: `1.2 MB`."""
    return "" if attachment.file_size is None else filesizeformat(attachment.file_size)


def short_digest(attachment: Attachment) -> SafeString:
    """The digest's first digits, all of them on hover."""
    digest = attachment.digest
    if digest is None:
        return format_html("{}", "" if attachment.s3_key is None else "not migrated")
    return format_html(
        '<code class="attachment-digest" title="{}">{}…</code>', digest, digest.hex[:DIGEST_SHOWN]
    )


def _link_picture(url: str, attachment: Attachment, style: str = "") -> SafeString:
    """A link's preview picture; where it leads is told beside it."""
    shown = picture(url, attachment.title)
    return format_html('<span class="attachment-preview {}">{}</span>', style, shown)


def _badge(attachment: Attachment) -> SafeString:
    return format_html(
        '<span class="attachment-badge">{}</span>', attachment.get_attachment_type_display()
    )
