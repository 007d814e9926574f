from django.db import migrations, models

import attachments.models


class Migration(migrations.Migration):
    dependencies = [
        ("attachments", "0013_search_text"),
        ("parts", "0006_versions_and_folded_names"),
    ]

    operations = [
        migrations.AddField(
            model_name="part",
            name="description_sorted",
            field=attachments.models.FoldedField(
                "description", blank=True, db_default="", default="", editable=False, limit=200
            ),
        ),
        migrations.AddField(
            model_name="part",
            name="manufacturer_sorted",
            field=attachments.models.FoldedField(
                "manufacturer", blank=True, db_default="", default="", editable=False, limit=200
            ),
        ),
        migrations.AddField(
            model_name="part",
            name="manufacturer_code_sorted",
            field=attachments.models.FoldedField(
                "manufacturer_code",
                blank=True,
                db_default="",
                default="",
                editable=False,
                limit=200,
            ),
        ),
        migrations.AlterField(
            model_name="part",
            name="search_text",
            field=attachments.models.FoldedField(
                "key",
                "description",
                "manufacturer",
                "manufacturer_code",
                blank=True,
                default="",
                editable=False,
            ),
        ),
        migrations.AlterField(
            model_name="tag",
            name="folded",
            field=attachments.models.FoldedField(
                "name", blank=True, default="", editable=False, limit=500
            ),
        ),
        migrations.AlterField(
            model_name="tag",
            name="name",
            field=models.CharField(max_length=500),
        ),
        migrations.AlterModelOptions(
            name="tag",
            options={"ordering": ("folded",)},
        ),
        migrations.AlterField(
            model_name="type",
            name="folded",
            field=attachments.models.FoldedField(
                "name", blank=True, default="", editable=False, limit=500
            ),
        ),
        migrations.AlterField(
            model_name="type",
            name="name",
            field=models.CharField(max_length=100),
        ),
        migrations.AlterModelOptions(
            name="type",
            options={"ordering": ("folded",)},
        ),
    ]
