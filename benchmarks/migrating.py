"""What a measured process does; run by the benchmarks with the environment of an installation.

    python -m benchmarks.migrating TASK ARGUMENT...

It sets up, says `ready`, waits for a line on standard input, works, and prints what it took as
one JSON object: seconds, peak resident memory in KiB, and what else the task tells.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

CHUNK = 1 << 20


def rows(count: str, size: str, distinct: str) -> dict[str, Any]:
    """So many rows on legacy keys, of `distinct` objects that are there already."""
    from django.db import connection

    from benchmarks.object_store import legacy_key
    from parts.models import Part

    with connection.cursor() as cursor:
        cursor.execute("UPDATE parts SET cover_attachment_id = NULL")
        cursor.execute("TRUNCATE part_attachments RESTART IDENTITY CASCADE")
    part = Part.objects.first() or Part.objects.create(description="Measured")
    prefix = legacy_key(0).removesuffix("000000000000.pdf")
    _insert(
        part.pk, f"'{prefix}' || lpad((n %% {int(distinct)})::text, 12, '0') || '.pdf'", count, size
    )
    return {}


def blobs(count: str, size: str) -> dict[str, Any]:
    """So many rows on blobs, as the stand-in names them, and no others."""
    from parts.models import Part

    rows("0", size, "1")

    part = Part.objects.first() or Part.objects.create(description="Measured")
    _insert(part.pk, "'cas/' || encode(sha256(n::text::bytea), 'hex')", count, size)
    return {}


def _insert(part: int, key: str, count: str, size: str) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        statement = f"""
            INSERT INTO part_attachments (part_id, attachment_type, title, s3_key, filename,
                content_type, file_size, created_at, updated_at)
            SELECT %s, 'pdf', 'Datasheet', {key}, 'a.pdf', 'application/pdf', %s, now(), now()
            FROM generate_series(0, %s - 1) AS n
        """  # noqa: S608 - an expression of our own
        cursor.execute(statement, [part, int(size), int(count)])
        cursor.execute("ANALYZE part_attachments")


def command(*arguments: str) -> dict[str, Any]:
    """A management command: its own exit status, the end of its output, and its summary."""
    from io import StringIO

    from django.core.management import call_command

    output = StringIO()
    status: Any = 0
    try:
        call_command(*arguments, "--json", stdout=output, stderr=output)
    except SystemExit as end:
        status = end.code
    lines = output.getvalue().splitlines()
    records = [json.loads(line) for line in lines if line.startswith('{"summary"')]
    summary = records[-1]["summary"] if records else {}
    return {"status": status, "summary": summary, "output": output.getvalue()[-2000:]}


def serial_s3() -> dict[str, Any]:
    """The rival: for each row download, hash, upload, commit."""
    from attachments.models import Attachment
    from cas.storage import attachment_store

    store: Any = attachment_store()
    client, bucket = store.client, store.bucket_name
    for row in Attachment.objects.filter(s3_key__startswith="parts/").iterator():
        data = client.get_object(Bucket=bucket, Key=row.s3_key)["Body"].read()
        key = f"cas/{hashlib.sha256(data).hexdigest()}"
        client.put_object(Bucket=bucket, Key=key, Body=data)
        row.s3_key = key
        row.save()
    return {}


def serial_disk() -> dict[str, Any]:
    """The rival on disk; it does not even wait for its bytes to be durable."""
    from attachments.models import Attachment
    from cas.storage import attachment_store

    store: Any = attachment_store()
    for row in Attachment.objects.filter(s3_key__startswith="parts/").iterator():
        data = Path(store.location, row.s3_key or "").read_bytes()
        row.s3_key = f"cas/{hashlib.sha256(data).hexdigest()}"
        target = Path(store.location, row.s3_key)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(data)
        row.save()
    return {}


def limit_disk(share: str, shares: str, threads: str) -> dict[str, Any]:
    """What the machine can do: hash and copy each file of a share of them."""
    from cas.storage import attachment_store

    store: Any = attachment_store()
    target = Path(store.location, "limit")
    target.mkdir(exist_ok=True)

    def one(path: Path) -> None:
        digest = hashlib.sha256()
        with path.open("rb") as source, (target / path.name).open("wb") as sink:
            while chunk := source.read(CHUNK):
                digest.update(chunk)
                sink.write(chunk)
            sink.flush()
            os.fsync(sink.fileno())

    paths = sorted(Path(store.location, "parts/1/attachments").iterdir())
    with ThreadPoolExecutor(int(threads)) as pool:
        list(pool.map(one, paths[int(share) :: int(shares)]))
    return {}


def limit_s3(share: str, shares: str, threads: str) -> dict[str, Any]:
    """What the machine can do: download and hash each object of a share, and have it copied."""
    from attachments.models import Attachment
    from cas.storage import attachment_store

    store: Any = attachment_store()
    client, bucket = store.client, store.bucket_name

    def one(key: str) -> None:
        digest = hashlib.sha256()
        for chunk in client.get_object(Bucket=bucket, Key=key)["Body"].iter_chunks(CHUNK):
            digest.update(chunk)
        source = {"Bucket": bucket, "Key": key}
        client.copy_object(Bucket=bucket, Key=f"limit/{digest.hexdigest()}", CopySource=source)

    keys = Attachment.objects.order_by("pk").values_list("s3_key", flat=True)
    with ThreadPoolExecutor(int(threads)) as pool:
        list(pool.map(one, keys[int(share) :: int(shares)]))
    return {}


TASKS: dict[str, Callable[..., dict[str, Any]]] = {
    task.__name__: task
    for task in (rows, blobs, command, serial_s3, serial_disk, limit_disk, limit_s3)
}


def main() -> None:
    import django

    django.setup()
    from django.db import connection

    connection.ensure_connection()
    print("ready", flush=True)
    sys.stdin.readline()
    begun = time.perf_counter()
    told = TASKS[sys.argv[1]](*sys.argv[2:])
    told["seconds"] = time.perf_counter() - begun
    # Not getrusage: that begins with what the parent had at the fork.
    status = Path("/proc/self/status").read_text()
    told["peak"] = int(status.partition("VmHWM:")[2].split()[0])
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
