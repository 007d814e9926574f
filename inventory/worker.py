"""What each worker process of the server runs."""

from __future__ import annotations

import ctypes
import signal
import sys

from inventory.wsgi import application

__all__ = ["application"]

PR_SET_PDEATHSIG = 1


def end_with_the_server() -> None:
    """Have the kernel end this process when the one that started it is gone.

    A server that is killed outright cannot tell its workers, which would go on to hold the port.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


end_with_the_server()
