from django.db import migrations

import attachments.models


class Migration(migrations.Migration):
    dependencies = [
        ("attachments", "0012_versions"),
    ]

    operations = [
        migrations.AddField(
            model_name="attachment",
            name="search_text",
            field=attachments.models.FoldedField(
                "title", "filename", blank=True, db_default="", default="", editable=False
            ),
        ),
    ]
