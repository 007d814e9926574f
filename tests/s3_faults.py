"""Faults that tests plan for the S3 server: which requests they hit, how often, and what happens.

A plan crosses a process boundary, so it is plain data. Actions:

error            answer `status`, `code` and perhaps `headers`, without acting
wait_then_act    act only after `seconds`, even if the connection was closed
act_then_hang    act, then stay silent for `seconds` and close
act_then_close   act, then close without an answer
act_then_error   act, then answer `status` and `code` as if nothing had been done
empty_etag       act, then answer without the ETag (Ceph RGW 16 of completions)
no_checksum      answer without any checksum header
other_etag       answer with an ETag that is no MD5, of as many parts
close_mid_body   announce the whole body, send `bytes` of it, close
short_body       answer with only the first `bytes` of the body, as if that were all
alter_body       flip one bit of the answer's body
alter_request    flip one bit of the request's body before anything else
error_in_200     do not act, and answer 200 with an error document (copies, completions)
overwrite_first  replace the object `key` by `body` just before acting
remove_first     delete the object `key` just before acting
delete_errors    of a batch delete, refuse keys that contain `text`, with `code`
not_done         answer 204 without acting
nothing_listed   of a listing, leave out every object
no_token         of a listing, claim that there is more without saying how to get it
unsorted         of a listing, reverse the page
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Fault:
    """Hits requests of `operation` ("*": any) whose key contains `key_contains`.

    The first `skip` matching requests pass; then `times` are hit (-1: all of them).
    """

    operation: str
    action: str
    key_contains: str = ""
    skip: int = 0
    times: int = 1
    options: dict[str, Any] = field(default_factory=dict)

    def matches(self, operation: str, key: str) -> bool:
        return self.operation in ("*", operation) and self.key_contains in key


class Plan:
    """The faults still to come. Safe to use from many threads."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> None:
        with self._lock:
            self._faults.append(fault)

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()

    def next(self, operation: str, key: str) -> Fault | None:
        """The fault that hits this request, used up by one."""
        with self._lock:
            for fault in self._faults:
                if not fault.times or not fault.matches(operation, key):
                    continue
                if fault.skip:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                return fault
        return None
