from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [
        ("attachments", "0009_keys_by_bytes"),
    ]

    operations = [
        migrations.RenameModel("CondemnedBlob", "PendingDeletion"),
        migrations.AlterModelTable("PendingDeletion", "pending_deletions"),
    ]
