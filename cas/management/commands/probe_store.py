"""Try everything that the commands need of the configured store, and print what was found."""

from __future__ import annotations

import json
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from cas.exit_status import ExitStatus
from cas.storage import attachment_store
from cas.storage.base import BlobStore, Denied, StoreError
from cas.storage.capabilities import NO_CAPABILITIES, Capabilities, probe
from cas.storage.preflight import Preflight, Weight

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
            store = attachment_store()
            preflight = store.preflight()
            try:
                capabilities = probe(store, force=not cached, log_missing=False)
            except Denied:
                # The preflight names the right that is missing.
                capabilities = NO_CAPABILITIES
        except ImproperlyConfigured as error:
            raise CommandError(str(error), returncode=ExitStatus.REFUSED) from error
        except StoreError as error:
            raise CommandError(
                f"the store cannot be used ({error.code}): {error}",
                returncode=ExitStatus.UNAVAILABLE,
            ) from error
        written = as_json if json else as_table
        self.stdout.write(written(store, preflight, capabilities))
        status = STATUSES[preflight.weight]
        if status is not ExitStatus.DONE:
            raise SystemExit(int(status))


def as_json(store: BlobStore, preflight: Preflight, capabilities: Capabilities) -> str:
    ahead = preflight.clock_ahead
    findings = {
        "store": store.identity,
        "status": STATUSES[preflight.weight].name.lower(),
        "clock_ahead_seconds": None if ahead is None else round(ahead.total_seconds()),
        "needs": {
            str(need): None
            if error is None
            else {"code": error.code, "message": str(error), "cost": need.cost}
            for need, error in preflight.found.items()
        },
        "capabilities": dict(capabilities.results),
        "probed_at": capabilities.probed_at.isoformat(timespec="seconds"),
        "notes": list(preflight.notes),
    }
    return json.dumps(findings, indent=2)


def as_table(store: BlobStore, preflight: Preflight, capabilities: Capabilities) -> str:
    lines = [store.identity]
    ahead = preflight.clock_ahead
    if ahead is not None:
        seconds = round(ahead.total_seconds())
        way = "behind" if seconds < 0 else "ahead of"
        lines.append(f"Its clock is {abs(seconds)} s {way} this machine's.")
    lines += preflight.notes
    lines.append("Operations:")
    for need, error in preflight.found.items():
        verdict = "works" if error is None else f"missing; {need.cost} ({error.code}: {error})"
        lines.append(f"  {need!s:<26}{verdict}")
    if capabilities.results:
        probed_at = capabilities.probed_at.isoformat(timespec="seconds")
        lines.append(f"Capabilities, probed {probed_at}:")
    else:
        lines.append("Capabilities: none could be probed, so none is relied on.")
    for name, supported in capabilities.results.items():
        verdict = "supported" if supported else f"not supported; {store.fallbacks[name]}"
        lines.append(f"  {name:<24}{verdict}")
    lines.append(VERDICTS[STATUSES[preflight.weight]])
    return "\n".join(lines)
