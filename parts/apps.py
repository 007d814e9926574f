from django.apps import AppConfig


class PartsConfig(AppConfig):
    name = "parts"

    def ready(self) -> None:
        from parts import covers, tags

        covers.connect()
        tags.connect()
