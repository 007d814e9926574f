from django.apps import AppConfig
from django.db.models.signals import post_migrate


class AccountsConfig(AppConfig):
    name = "accounts"
    verbose_name = "Accounts"

    def ready(self) -> None:
        from accounts.roles import create_roles

        # The last of the apps, when the permissions of all of them are there.
        post_migrate.connect(create_roles, sender=self, dispatch_uid="roles")
