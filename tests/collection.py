"""A collection in the older layout, made and inspected from outside the processes under test.

    python -m tests.collection make ROWS     rows and objects, a third of the rows duplicates
    python -m tests.collection inspect       what rows and store hold, as one JSON object

Works on the installation that the environment names, as manage.py does.
"""

from __future__ import annotations

import json
import os
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

WRITERS = 8


def make(rows: int) -> None:
    """Contents are a few bytes up to some kilobytes; every third row repeats an earlier one."""
    from attachments.models import Attachment
    from cas.storage import attachment_store
    from parts.models import Part

    store = attachment_store()
    parts = [Part.objects.create(description=f"Part {number}") for number in range(20)]

    def row(number: int) -> Attachment:
        part = parts[number % len(parts)]
        return Attachment(
            part=part,
            attachment_type=Attachment.Kind.PDF,
            title=f"Datasheet {number}",
            s3_key=f"parts/{part.pk}/attachments/{uuid.uuid4()}.pdf",
            filename=f"datasheet-{number}.pdf",
            content_type="application/pdf",
            file_size=len(_content(number)),
        )

    def put(number: int, made: Attachment) -> None:
        path = store.staging_dir / f"sample-{uuid.uuid4()}"
        path.write_bytes(_content(number))
        store.put_legacy(made.s3_key or "", path)
        path.unlink()

    # Rows first: a cleanup at the same time would take objects without rows for left over.
    made = [row(number) for number in range(rows)]
    Attachment.objects.bulk_create(made, batch_size=500)
    with ThreadPoolExecutor(WRITERS) as writers:
        list(writers.map(put, range(rows), made))


def _content(number: int) -> bytes:
    original = number - 2 if number % 3 == 2 else number
    return b"%%PDF-1.7 datasheet %d\n" % original * (1 + original % 50)


def contents(rows: int) -> int:
    """How many distinct contents `make` gives so many rows."""
    return len({_content(number) for number in range(rows)})


def inspect() -> dict[str, Any]:
    """Reads every object a row references and hashes it; nothing is taken on trust."""
    from attachments.models import Attachment
    from cas.digest import is_cas_key
    from cas.storage import attachment_store

    store = attachment_store()
    rows = list(Attachment.objects.values_list("pk", "s3_key", "file_size"))
    intact: dict[str, int | None] = {}
    for key in {key for _, key, _ in rows if key and is_cas_key(key)}:
        digest, stat = store.digest_of(key)
        intact[key] = stat.size if digest.key == key else None
    objects = [stat.key for stat in store.scan("")]
    return {
        "rows": len(rows),
        "whole": sum(intact.get(key or "") == size for _, key, size in rows),
        "distinct": len(intact),
        "blobs": sum(is_cas_key(key) for key in objects),
        "legacy": sum(key.startswith("parts/") for key in objects),
        "objects": len(objects),
    }


def main() -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "inventory.settings")
    import django

    django.setup()
    if sys.argv[1] == "make":
        make(int(sys.argv[2]))
    else:
        sys.stdout.write(json.dumps(inspect()) + "\n")


if __name__ == "__main__":
    main()
