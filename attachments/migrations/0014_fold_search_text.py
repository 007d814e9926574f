from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps

from attachments.folding import refold


def fold_all(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    refold(apps.get_model("attachments", "Attachment"))


class Migration(migrations.Migration):
    dependencies = [
        ("attachments", "0013_search_text"),
    ]

    operations = [
        migrations.RunPython(fold_all, migrations.RunPython.noop),
    ]
