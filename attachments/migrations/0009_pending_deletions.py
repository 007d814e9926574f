from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [
        ("attachments", "0008_verification_etag"),
    ]

    operations = [
        migrations.RenameModel("CondemnedBlob", "PendingDeletion"),
        migrations.AlterModelTable("PendingDeletion", "pending_deletions"),
    ]
