from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("attachments", "0007_link_pictures")]

    operations = [
        migrations.AddField(
            model_name="verification",
            name="etag",
            field=models.CharField(blank=True, default="", max_length=255),
            preserve_default=False,
        ),
    ]
