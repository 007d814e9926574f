"""Typed values from the environment, with every fault told at once.

An operator who has three variables wrong should learn of all three, not of one per restart. So a
reader never raises: it notes the fault, returns something usable, and `check()` raises for all.
"""

from __future__ import annotations

import difflib
import ipaddress
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured

PREFIXES: Final = ("INVENTORY_", "CAS_")
"""Variables that start so are ours alone: one we do not know is a misspelt one."""

TRUE: Final = frozenset({"1", "true", "yes", "on"})
FALSE: Final = frozenset({"0", "false", "no", "off"})

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class EnvironmentFault(ImproperlyConfigured):
    """The environment does not say what the application needs. The message names each fault."""


class Environment:
    """Reads variables of `values`. An empty variable counts as one that is not set."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self._faults: list[str] = []
        self.names: set[str] = set()

    def fault(self, name: str, problem: str) -> None:
        """Note that the variable is wrong. `problem` says how, and what to write instead."""
        self._faults.append(f"{name} {problem}")

    def check(self) -> None:
        """Raise EnvironmentFault if anything was wrong, or if a variable of ours is unknown."""
        self._find_unknown()
        if self._faults:
            lines = "".join(f"\n  - {fault}" for fault in self._faults)
            raise EnvironmentFault(f"These environment variables have to be corrected:{lines}")

    def _find_unknown(self) -> None:
        for name in sorted(self._values):
            if name in self.names or not name.startswith(PREFIXES) or not self._values[name]:
                continue
            close = difflib.get_close_matches(name, self.names, n=1)
            cure = f"Did you mean {close[0]}?" if close else "Remove it."
            self.fault(name, f"is not a variable of this application. {cure}")

    def is_set(self, name: str) -> bool:
        return bool(self.text(name))

    def text(self, name: str, default: str = "") -> str:
        self.names.add(name)
        return self._values.get(name, "").strip() or default

    def boolean(self, name: str, default: bool) -> bool:
        value = self.text(name).lower()
        if value and value not in TRUE | FALSE:
            self.fault(name, f"is {value!r}. Write true or false.")
        return value in TRUE if value in TRUE | FALSE else default

    def integer(self, name: str, default: int, *, minimum: int, maximum: int) -> int:
        value = self.text(name)
        if not value:
            return default
        # isdecimal alone would accept digits of other scripts.
        number = int(value) if value.isascii() and value.isdecimal() and len(value) < 20 else -1
        if not minimum <= number <= maximum:
            self.fault(name, f"is {value!r}. Write a whole number from {minimum} to {maximum}.")
            return default
        return number

    def choice(self, name: str, options: Sequence[str], default: str) -> str:
        value = self.text(name, default)
        if value not in options:
            self.fault(name, f"is {value!r}. Write one of {', '.join(options)}.")
            return default
        return value

    def items(self, name: str) -> list[str]:
        """A list, its entries separated by commas."""
        return [item.strip() for item in self.text(name).split(",") if item.strip()]

    def integers(self, name: str, *, minimum: int, maximum: int) -> list[int]:
        numbers = []
        for item in self.items(name):
            number = int(item) if item.isascii() and item.isdecimal() and len(item) < 20 else -1
            if not minimum <= number <= maximum:
                self.fault(
                    name,
                    f"has the entry {item!r}. Write whole numbers from {minimum} to {maximum}, "
                    "separated by commas.",
                )
                continue
            numbers.append(number)
        return numbers

    def directory(self, name: str, default: Path, base: Path) -> Path:
        """An absolute path; a relative one is below `base`. Created if missing."""
        path = Path(base, self.text(name, str(default)))
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self.fault(
                name,
                f"is {str(path)!r}, which cannot be created ({error.strerror}). "
                "Write the path of a directory that this user may write to.",
            )
        return path

    def certificates(self, name: str) -> str:
        """The path of a readable file with certificates in PEM, or nothing."""
        value = self.text(name)
        if not value:
            return ""
        try:
            ssl.create_default_context(cafile=value)
        except ssl.SSLError:
            problem = "which has no certificate in PEM"
        except OSError as error:
            problem = f"which cannot be read ({error.strerror})"
        else:
            return value
        self.fault(
            name,
            f"is {value!r}, {problem}. Write the path of a PEM file with the certificates of the "
            "authorities to trust.",
        )
        return ""

    def url(self, name: str) -> str:
        """An http or https URL without a slash at its end."""
        value = self.text(name).rstrip("/")
        if value and not _is_web(value):
            self.fault(name, f"is {value!r}. Write a URL such as https://cdn.example.org.")
            return ""
        return value

    def origins(self, name: str, *, any_allowed: bool = False) -> list[str]:
        """Origins (RFC 6454), scheme://host[:port]."""
        good = []
        for item in self.items(name):
            if not (any_allowed and item == "*") and not _is_origin(item):
                self.fault(
                    name,
                    f"has the entry {item!r}. Write origins such as https://parts.example.org, "
                    "without a path, separated by commas.",
                )
                continue
            good.append(item)
        return good

    def networks(self, name: str) -> list[Network]:
        good: list[Network] = []
        for item in self.items(name):
            try:
                good.append(ipaddress.ip_network(item))
            except ValueError:
                self.fault(
                    name,
                    f"has the entry {item!r}. Write addresses or networks such as 10.1.2.0/24, "
                    "separated by commas.",
                )
        return good

    def address(self, name: str, default: str) -> str:
        """An IP address to listen on."""
        value = self.text(name, default)
        value = "127.0.0.1" if value == "localhost" else value.strip("[]")
        try:
            return str(ipaddress.ip_address(value))
        except ValueError:
            self.fault(name, f"is {value!r}. Write an IP address such as 127.0.0.1 or ::1.")
            return default


def _is_web(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query


def _is_origin(text: str) -> bool:
    return _is_web(text) and urlsplit(text).path == "" and "@" not in text
