from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("parts", "0008_one_of_each_name"),
    ]

    operations = [
        migrations.AddIndex(
            model_name="part",
            index=models.Index(fields=["description_sorted", "id"], name="part_by_description"),
        ),
        migrations.AddIndex(
            model_name="part",
            index=models.Index(fields=["manufacturer_sorted", "id"], name="part_by_manufacturer"),
        ),
        migrations.AddIndex(
            model_name="part",
            index=models.Index(
                fields=["manufacturer_code_sorted", "id"], name="part_by_manufacturer_code"
            ),
        ),
        migrations.AddConstraint(
            model_name="tag",
            constraint=models.UniqueConstraint(
                fields=("folded",), name="tag_is_one_of_its_name", violation_error_code="unique"
            ),
        ),
        migrations.AddConstraint(
            model_name="type",
            constraint=models.UniqueConstraint(
                fields=("folded",), name="type_is_one_of_its_name", violation_error_code="unique"
            ),
        ),
    ]
