"""The guard of `0002_cover_belongs_to_part`, as a constraint of the model.

Triggers on SQLite stood in the way of every rebuild of their tables, and were lost with it. A
foreign key in CREATE TABLE is carried along by Django itself.
"""

from importlib import import_module

from django.db import migrations

import parts.constraints

earlier = import_module("parts.migrations.0002_cover_belongs_to_part")


class Migration(migrations.Migration):
    dependencies = [
        ("parts", "0002_cover_belongs_to_part"),
    ]

    operations = [
        migrations.RunPython(earlier.drop_guard, earlier.add_guard),
        migrations.AddConstraint(
            model_name="part",
            constraint=parts.constraints.CompositeForeignKey(
                columns=("cover_attachment_id", "id"),
                name="part_cover_is_own",
                to_columns=("id", "part_id"),
                to_table="part_attachments",
                violation_error_message="The cover is not an attachment of this part.",
            ),
        ),
    ]
