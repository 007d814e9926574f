"""Try everything that the commands need of the configured store, and print what was found."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from cas.exit_status import ExitStatus
from cas.storage import attachment_store
from cas.storage.base import Denied, Preflight, StoreError, Weight
from cas.storage.capabilities import NO_CAPABILITIES, Capabilities, probe

STATUSES: Final = {
    None: ExitStatus.DONE,
    Weight.REPLACEABLE: ExitStatus.DONE,
    Weight.NEEDED: ExitStatus.ITEMS_FAILED,
    Weight.ESSENTIAL: ExitStatus.UNAVAILABLE,
}
VERDICTS: Final = {
    ExitStatus.DONE: "The store can be used.",
    ExitStatus.ITEMS_FAILED: "The store can be used, but not for everything.",
    ExitStatus.UNAVAILABLE: "The store cannot be used.",
}


@dataclass(frozen=True, slots=True)
class Findings:
    store: str
    preflight: Preflight
    capabilities: Capabilities
    fallbacks: dict[str, str]

    @property
    def status(self) -> ExitStatus:
        return STATUSES[self.preflight.weight]


class Command(BaseCommand):
    help = (
        "Tries each operation that the commands need, by itself and below each prefix, then "
        "probes each capability of the store with a request that must be refused. Says what is "
        "missing and what that costs. A capability that is not supported is no error: the table "
        "says what is done in its place."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--cached", action="store_true", help="show the capabilities found before, if any were"
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *, cached: bool, json: bool, **options: Any) -> None:
        try:
            found = find_out(cached=cached)
        except ImproperlyConfigured as error:
            raise CommandError(str(error), returncode=ExitStatus.REFUSED) from error
        except StoreError as error:
            raise CommandError(
                f"the store cannot be used ({error.code}): {error}",
                returncode=ExitStatus.UNAVAILABLE,
            ) from error
        self.stdout.write(as_json(found) if json else as_table(found))
        if found.status is not ExitStatus.DONE:
            raise SystemExit(int(found.status))


def find_out(*, cached: bool) -> Findings:
    """Raises StoreError if nothing can be tried at all."""
    store = attachment_store()
    preflight = store.preflight()
    try:
        capabilities = probe(store, force=not cached, log_missing=False)
    except Denied:
        # The preflight names the right that is missing.
        capabilities = NO_CAPABILITIES
    return Findings(store.identity, preflight, capabilities, dict(store.fallbacks))


def as_json(found: Findings) -> str:
    ahead = found.preflight.clock_ahead
    findings = {
        "store": found.store,
        "status": found.status.name.lower(),
        "clock_ahead_seconds": None if ahead is None else round(ahead.total_seconds()),
        "needs": {
            str(need): None
            if error is None
            else {"code": error.code, "message": str(error), "cost": need.cost}
            for need, error in found.preflight.found.items()
        },
        "capabilities": dict(found.capabilities.results),
        "probed_at": found.capabilities.probed_at.isoformat(timespec="seconds"),
        "notes": list(found.preflight.notes),
    }
    return json.dumps(findings, indent=2)


def as_table(found: Findings) -> str:
    lines = [found.store]
    ahead = found.preflight.clock_ahead
    if ahead is not None:
        seconds = round(ahead.total_seconds())
        way = "behind" if seconds < 0 else "ahead of"
        lines.append(f"Its clock is {abs(seconds)} s {way} this machine's.")
    lines += found.preflight.notes
    lines.append("Operations:")
    for need, error in found.preflight.found.items():
        verdict = "works" if error is None else f"missing; {need.cost} ({error.code}: {error})"
        lines.append(f"  {need!s:<26}{verdict}")
    if found.capabilities.results:
        probed_at = found.capabilities.probed_at.isoformat(timespec="seconds")
        lines.append(f"Capabilities, probed {probed_at}:")
    else:
        lines.append("Capabilities: none could be probed, so none is relied on.")
    for name, supported in found.capabilities.results.items():
        verdict = "supported" if supported else f"not supported; {found.fallbacks[name]}"
        lines.append(f"  {name:<24}{verdict}")
    lines.append(VERDICTS[found.status])
    return "\n".join(lines)
