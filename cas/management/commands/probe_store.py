"""Try the configured store's rights and guards, and say what was found."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from cas.storage import attachment_store
from cas.storage.base import StoreError
from cas.storage.guards import Guarded, probe
from cas.storage.preflight import preflight


class Command(BaseCommand):
    help = (
        "Writes, reads, lists and deletes an object of its own, then tries each of the store's "
        "guards with bytes that must be refused, and remembers which did. Ends with status 1 "
        "if the store cannot be used. A guard that is not honoured is no error: the table says "
        "what is done in its place."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--cached", action="store_true", help="show what was found before, if anything was"
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *, cached: bool, json: bool, **options: Any) -> None:
        store = attachment_store()
        if not isinstance(store, Guarded):
            raise CommandError("this store has no guards that could be tried")
        try:
            ahead = preflight(store)
            guards = probe(store, force=not cached)
        except StoreError as error:
            raise CommandError(f"the store cannot be used ({error.code}): {error}") from error
        said = {
            "store": store.identity,
            "tried_at": guards.tried_at.isoformat(timespec="seconds"),
            "clock_ahead_seconds": round(ahead.total_seconds()),
            "guards": dict(guards.results),
        }
        self.stdout.write(_as_json(said) if json else _as_table(said, store.fallbacks))


def _as_json(said: dict[str, Any]) -> str:
    return json.dumps(said, indent=2)


def _as_table(said: dict[str, Any], fallbacks: Any) -> str:
    lines = [
        f"{said['store']}: can be written, read, listed and deleted from.",
        f"Its clock is {said['clock_ahead_seconds']} s ahead of this machine's.",
        f"Guards, tried {said['tried_at']}:",
    ]
    for name, honoured in said["guards"].items():
        verdict = "honoured" if honoured else f"not honoured; {fallbacks[name]}"
        lines.append(f"  {name:<24}{verdict}")
    return "\n".join(lines)
