"""Which addresses belong to this machine alone."""

from __future__ import annotations

import ipaddress


def is_local(address: str) -> bool:
    """Whether only this machine can have, or be at, this IP address."""
    if address in ("127.0.0.1", "::1"):
        return True
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).is_loopback
