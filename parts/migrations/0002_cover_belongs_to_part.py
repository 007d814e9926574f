"""Let the database hold that a part's cover is one of its own attachments.

Django cannot express it: on PostgreSQL it is a composite foreign key, on SQLite (which cannot add
one to a table that exists) three triggers. A later migration that makes SQLite rebuild `parts` or
`part_attachments` drops the triggers on that table and must run `add_guard` again; a test fails
if it does not.
"""

from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps

POSTGRESQL = """
ALTER TABLE parts ADD CONSTRAINT part_cover_is_own
    FOREIGN KEY (cover_attachment_id, id) REFERENCES part_attachments (id, part_id)
    DEFERRABLE INITIALLY DEFERRED
"""

FOREIGN_COVER = """
    SELECT RAISE(ABORT, 'part_cover_is_own: the cover is another part''s attachment')
"""

SQLITE = [
    f"""
    CREATE TRIGGER part_cover_is_own_{event.lower()}
    BEFORE {event} ON parts
    WHEN NEW.cover_attachment_id IS NOT NULL AND EXISTS (
        SELECT 1 FROM part_attachments
        WHERE id = NEW.cover_attachment_id AND part_id <> NEW.id)
    BEGIN {FOREIGN_COVER}; END
    """
    for event in ("INSERT", "UPDATE")
] + [
    f"""
    CREATE TRIGGER part_cover_stays_own
    BEFORE UPDATE OF part_id ON part_attachments
    WHEN EXISTS (
        SELECT 1 FROM parts WHERE cover_attachment_id = NEW.id AND id <> NEW.part_id)
    BEGIN {FOREIGN_COVER}; END
    """
]


def add_guard(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    postgresql = schema_editor.connection.vendor == "postgresql"
    for statement in [POSTGRESQL] if postgresql else SQLITE:
        schema_editor.execute(statement)


def drop_guard(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute("ALTER TABLE parts DROP CONSTRAINT part_cover_is_own")
        return
    for trigger in ("cover_is_own_insert", "cover_is_own_update", "cover_stays_own"):
        schema_editor.execute(f"DROP TRIGGER part_{trigger}")


class Migration(migrations.Migration):
    dependencies = [("parts", "0001_initial"), ("attachments", "0002_initial")]
    operations = [migrations.RunPython(add_guard, drop_guard)]
