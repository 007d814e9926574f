"""The API has no accounts yet, so it is for this machine alone unless the operator opens it.

`INVENTORY_ALLOW_OPEN_API=true` says that whoever can connect may read and write everything.
"""

from __future__ import annotations

from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponseBase, JsonResponse

from inventory.errors import body
from inventory.loopback import is_local


class RefuseOtherMachines:
    """Middleware: requests below /api/ from other machines are answered 403.

    The server that `inventory.serve` starts never listens for any; this holds for all the others
    that could be put in front of `inventory.wsgi`. A peer without an address is at the other end
    of a Unix socket.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if request.path.startswith("/api/") and not settings.INVENTORY_ALLOW_OPEN_API:
            peer = request.META.get("REMOTE_ADDR", "")
            if peer and not is_local(peer):
                return JsonResponse(
                    body("not_local", "The API is open to its own machine only."),
                    status=403,
                    headers={"Cache-Control": "no-store"},
                )
        return self.get_response(request)
