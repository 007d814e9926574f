from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps

# The condition of `attachments.maintenance.migrate.unmigrated`; the test beside that looks at the plans
# of its queries. When all is migrated the index is empty, and that is known without a look at the
# rows. SQLite gets none: there REGEXP is a function of Django's, and a table with such an index could
# no longer be written by any other program.
POSTGRESQL = r"""
    CREATE INDEX attachment_unmigrated ON part_attachments (id)
    WHERE s3_key IS NOT NULL AND NOT (s3_key::text ~ '\Acas/[0-9a-f]{64}\Z')
"""


def add_index(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(POSTGRESQL)


def drop_index(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute("DROP INDEX attachment_unmigrated")


class Migration(migrations.Migration):
    dependencies = [
        ("attachments", "0004_same_object_index"),
    ]

    operations = [migrations.RunPython(add_index, drop_index)]
