from django.apps import AppConfig


class AttachmentsConfig(AppConfig):
    name = "attachments"

    def ready(self) -> None:
        """Register the system checks."""
        from attachments import checks  # noqa: F401
