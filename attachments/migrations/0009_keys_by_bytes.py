from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps

# Keys sort by their bytes, as stores list them; SQLite's do anyway. PostgreSQL would sort them by the
# database's language, and could not walk along the column's index.
COLLATION = 'ALTER TABLE part_attachments ALTER s3_key TYPE varchar(500) COLLATE "{}"'


def compare_bytes(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(COLLATION.format("C"))


def compare_language(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(COLLATION.format("default"))


class Migration(migrations.Migration):
    dependencies = [("attachments", "0008_verification_etag")]

    operations = [migrations.RunPython(compare_bytes, compare_language)]
