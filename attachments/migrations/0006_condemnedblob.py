from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("attachments", "0005_unmigrated_index"),
    ]

    operations = [
        migrations.CreateModel(
            name="CondemnedBlob",
            fields=[
                ("digest", models.CharField(max_length=64, primary_key=True, serialize=False)),
                ("since", models.DateTimeField()),
            ],
            options={"db_table": "condemned_blobs"},
        ),
    ]
