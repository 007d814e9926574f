"""The digest, its key, and hashing that does not depend on how the bytes arrive."""

from __future__ import annotations

import hashlib
import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cas.digest import CAS_PREFIX, Digest, Hasher, MalformedDigest, hash_stream, is_cas_key

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@given(st.binary())
def test_of_bytes_and_back_from_the_key(data: bytes) -> None:
    digest = Digest.of(data)
    assert digest.hex == hashlib.sha256(data).hexdigest() == str(digest)
    assert digest.raw == hashlib.sha256(data).digest()
    assert digest.key == f"cas/{digest.hex}"
    assert Digest.from_key(digest.key) == digest
    assert is_cas_key(digest.key)


@given(st.text())
def test_of_any_text_only_lowercase_hex_is_a_digest(text: str) -> None:
    """Also not another script's digits, nor a line's end that `$` would let through."""
    if re.fullmatch("[0-9a-f]{64}", text):
        assert Digest(text).hex == text
    else:
        with pytest.raises(MalformedDigest):
            Digest(text)


@pytest.mark.parametrize(
    "text",
    ["", EMPTY[:-1], EMPTY + "0", EMPTY.upper(), EMPTY + "\n", EMPTY[:-1] + "g", " " + EMPTY[1:]],
)
def test_near_misses(text: str) -> None:
    with pytest.raises(MalformedDigest):
        Digest(text)
    assert not is_cas_key(CAS_PREFIX + text)


@pytest.mark.parametrize(
    "key", ["", "cas/", EMPTY, f"/cas/{EMPTY}", f"cas/{EMPTY}/x", f"CAS/{EMPTY}"]
)
def test_what_is_no_cas_key(key: str) -> None:
    assert not is_cas_key(key)
    with pytest.raises(MalformedDigest):
        Digest.from_key(key)


@given(st.lists(st.binary()))
def test_pieces_hash_like_the_whole(pieces: list[bytes]) -> None:
    hasher = Hasher()
    for piece in pieces:
        hasher.update(piece)
    whole = b"".join(pieces)
    assert hasher.digest == Digest.of(whole)
    assert hasher.md5 == hashlib.md5(whole, usedforsecurity=False).digest()
    assert hasher.size == len(whole)


def test_a_stream_is_hashed_to_its_end_and_its_progress_heard() -> None:
    data = b"x" * (3 * 1024 * 1024 + 1)
    heard: list[int] = []
    hasher = hash_stream(io.BytesIO(data), heard.append)
    assert hasher.digest == Digest.of(data)
    assert sum(heard) == len(data)
    assert max(heard) == 1024 * 1024


def test_a_hasher_without_md5_has_none() -> None:
    hasher = Hasher(with_md5=False)
    hasher.update(b"x")
    assert hasher.digest == Digest.of(b"x")
    with pytest.raises(ValueError, match="MD5"):
        _ = hasher.md5
