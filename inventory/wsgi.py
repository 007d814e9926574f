import os

from django.core.wsgi import get_wsgi_application

from inventory.checks import refuse_faulty_settings

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "inventory.settings")
application = get_wsgi_application()
refuse_faulty_settings()
