"""Counters and times of serving."""

from prometheus_client import Counter, Histogram

_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)

REQUESTS = Counter("cas_requests", "Requests for blobs, by answer.", ["status", "kind"])
RESPONSE_SECONDS = Histogram(
    "cas_response_seconds",
    "Time until an answer is ready to be sent; sending the body is not in it.",
    ["kind"],
    buckets=_BUCKETS,
)
THUMBNAIL_SECONDS = Histogram(
    "cas_thumbnail_seconds",
    "Time it took to make a thumbnail, waiting included, by what it was made of.",
    ["source"],
    buckets=_BUCKETS,
)
THUMBNAIL_HITS = Counter("cas_thumbnail_cache_hits", "Thumbnails found finished in the cache.")
THUMBNAIL_MISSES = Counter("cas_thumbnail_cache_misses", "Thumbnails that had to be made.")
