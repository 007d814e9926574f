"""Counters and times of serving."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

from cas.variants import CacheResult

REQUESTS = Counter("cas_requests", "Requests for blobs, by answer.", ["status", "kind"])
THUMBNAIL_HITS = Counter("cas_thumbnail_cache_hits", "Thumbnails found finished in the cache.")
THUMBNAIL_MISSES = Counter("cas_thumbnail_cache_misses", "Thumbnails that had to be made.")
RESPONSE_SECONDS = Histogram(
    "cas_response_seconds",
    "Time until an answer is ready to be sent; sending the body is not in it.",
    ["kind", "cache"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)


def record(status: int, kind: str, cache: CacheResult, seconds: float) -> None:
    """Count one answered request. `kind` is `content` or `thumbnail`."""
    REQUESTS.labels(str(status), kind).inc()
    RESPONSE_SECONDS.labels(kind, cache.value).observe(seconds)
    if cache is CacheResult.HIT:
        THUMBNAIL_HITS.inc()
    elif cache in (CacheResult.MISS, CacheResult.BASE):
        THUMBNAIL_MISSES.inc()
