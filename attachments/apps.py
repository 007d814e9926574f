from django.apps import AppConfig
from django.db.models.signals import post_migrate, pre_migrate


class AttachmentsConfig(AppConfig):
    name = "attachments"

    def ready(self) -> None:
        """Register the system checks, and what keeps the history."""
        from attachments import checks, history  # noqa: F401

        history.connect()
        pre_migrate.connect(history.make_way, sender=self, dispatch_uid="triggers")
        post_migrate.connect(history.create_triggers, sender=self, dispatch_uid="triggers")
