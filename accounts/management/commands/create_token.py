"""`manage.py create_token`: a token for a program, printed once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management import BaseCommand, CommandError, CommandParser

from accounts.models import DEFAULT_DAYS, MOST_DAYS, Token


class Command(BaseCommand):
    help = (
        "Make a token with which a program may do what an account may. Only the token is printed, "
        "on standard output, and this once."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("username", help="the account")
        parser.add_argument("name", help="what the token is for, as lists and the log will show it")
        parser.add_argument(
            "--days",
            type=int,
            default=DEFAULT_DAYS,
            help=f"until it expires, at most {MOST_DAYS} (default: %(default)s)",
        )

    def handle(self, *, username: str, name: str, days: int, **_: Any) -> None:
        if not 1 <= days <= MOST_DAYS:
            raise CommandError(f"--days is a number from 1 to {MOST_DAYS}. No token was made.")
        longest = Token._meta.get_field("name").max_length
        if not name.strip() or len(name) > longest or not name.isprintable():
            raise CommandError(
                f"The name is up to {longest} visible characters. No token was made."
            )
        user = get_user_model()._default_manager.filter(username=username).first()
        if user is None:
            raise CommandError(
                f"There is no account {username!r}. No token was made. Accounts are made in the "
                "admin, and the first one with: manage.py createsuperuser"
            )
        if not user.is_active:
            raise CommandError(f"The account {username!r} is not active. No token was made.")
        self.stdout.write(Token.objects.create(user, timedelta(days=days), name=name.strip())[1])
