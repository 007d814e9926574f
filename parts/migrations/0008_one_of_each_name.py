from typing import Any

from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps
from django.db.models import Count, F

from attachments.folding import refold

BATCH = 500


def fold_and_merge(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Fold everything again, then leave one type and one tag of each folded name.

    The one that most parts have stays, of several the oldest.
    """
    part, type_, tag = (apps.get_model("parts", name) for name in ("Part", "Type", "Tag"))
    for model in (part, type_, tag):
        refold(model)
    for kept, others in groups(type_):
        # What is shown of these parts changes.
        moved = part._default_manager.filter(type__in=others)
        moved.update(type=kept, version=F("version") + 1)
        type_._default_manager.filter(pk__in=others).delete()
    for kept, others in groups(tag):
        merge_tags(part, kept, others)
        tag._default_manager.filter(pk__in=others).delete()


def groups(model: Any) -> list[tuple[int, list[int]]]:
    """Of each name that several have, who stays and who goes."""
    rows = model._default_manager.order_by()
    several = rows.values("folded").annotate(count=Count("pk")).filter(count__gt=1)
    found = []
    for folded in list(several.values_list("folded", flat=True)):
        same = rows.filter(folded=folded).annotate(used=Count("parts")).order_by("-used", "pk")
        kept, *others = same.values_list("pk", flat=True)
        found.append((kept, others))
    return found


def merge_tags(part: Any, kept: int, others: list[int]) -> None:
    """Each part keeps its first one of these tags, in its place, as `kept`."""
    through = part.tags.through._default_manager
    ids = through.filter(tag__in=others).order_by("part_id").values_list("part_id", flat=True)
    parts = list(ids.distinct())
    for start in range(0, len(parts), BATCH):
        batch = parts[start : start + BATCH]
        rows = through.filter(part__in=batch, tag__in=[kept, *others]).order_by("part_id", "pk")
        seen, repeated = set(), []
        for pk, part_id in rows.values_list("pk", "part_id"):
            if part_id in seen:
                repeated.append(pk)
            seen.add(part_id)
        for first in range(0, len(repeated), BATCH):
            through.filter(pk__in=repeated[first : first + BATCH]).delete()
        through.filter(part__in=batch, tag__in=others).update(tag=kept)
        part._default_manager.filter(pk__in=batch).update(version=F("version") + 1)


class Migration(migrations.Migration):
    dependencies = [
        ("parts", "0007_folded_columns"),
    ]

    operations = [
        migrations.RunPython(fold_and_merge, migrations.RunPython.noop),
    ]
