from django.apps import AppConfig
from django.core import checks


class CasConfig(AppConfig):
    name = "cas"
    verbose_name = "Content-addressed storage"

    def ready(self) -> None:
        from cas.checks import check_store
        from cas.conf import check_serving

        checks.register(check_serving)
        checks.register(check_store)
