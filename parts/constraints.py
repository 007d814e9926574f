"""A composite foreign key, which Django has no constraint for."""

from __future__ import annotations

from typing import Any, Final

from django.core.exceptions import ValidationError
from django.db import DEFAULT_DB_ALIAS, connections, models

KEY: Final = (
    "CONSTRAINT {name} FOREIGN KEY ({columns}) REFERENCES {to_table} ({to_columns})"
    " DEFERRABLE INITIALLY DEFERRED"
)


class CompositeForeignKey(models.BaseConstraint):
    """Columns that together refer to a unique set of columns of another table.

    A row with a NULL in one of its columns refers to nothing (MATCH SIMPLE). Checked at the end
    of the transaction, on PostgreSQL and SQLite alike. Tables and columns are named as in the
    database: where Django rebuilds a table for SQLite, there are no models to look them up in.
    """

    violation_error_code = "foreign_key"

    def __init__(
        self,
        *,
        name: str,
        columns: tuple[str, ...],
        to_table: str,
        to_columns: tuple[str, ...],
        **kwargs: Any,
    ) -> None:
        self.columns = tuple(columns)
        self.to_table = to_table
        self.to_columns = tuple(to_columns)
        super().__init__(name=name, **kwargs)

    def constraint_sql(self, model: Any, schema_editor: Any) -> str:
        """The key as a clause of CREATE TABLE, which is all that SQLite knows."""
        quote = schema_editor.quote_name
        return KEY.format(
            name=quote(self.name),
            columns=", ".join(map(quote, self.columns)),
            to_table=quote(self.to_table),
            to_columns=", ".join(map(quote, self.to_columns)),
        )

    def create_sql(self, model: Any, schema_editor: Any) -> str:
        table = schema_editor.quote_name(model._meta.db_table)
        return f"ALTER TABLE {table} ADD {self.constraint_sql(model, schema_editor)}"

    def remove_sql(self, model: Any, schema_editor: Any) -> str:
        quote = schema_editor.quote_name
        table, name = quote(model._meta.db_table), quote(self.name)
        return f"ALTER TABLE {table} DROP CONSTRAINT {name}"

    def validate(
        self,
        model: Any,
        instance: Any,
        exclude: Any = None,
        using: str = DEFAULT_DB_ALIAS,
    ) -> None:
        """Raises ValidationError if what the instance refers to is not there."""
        fields = {field.column: field for field in model._meta.concrete_fields}
        own = [fields[column] for column in self.columns]
        if exclude and any(field.name in exclude for field in own):
            return
        values = [getattr(instance, field.attname) for field in own]
        if None in values:
            return
        connection = connections[using]
        quote = connection.ops.quote_name
        condition = " AND ".join(f"{quote(column)} = %s" for column in self.to_columns)
        with connection.cursor() as cursor:
            table = quote(self.to_table)
            cursor.execute(f"SELECT 1 FROM {table} WHERE {condition}", values)  # noqa: S608
            if cursor.fetchone() is None:
                message = self.get_violation_error_message()
                raise ValidationError(message, code=self.violation_error_code)

    def deconstruct(self) -> Any:
        path, args, kwargs = super().deconstruct()
        named = {"columns": self.columns, "to_table": self.to_table, "to_columns": self.to_columns}
        return path, args, {**kwargs, **named}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CompositeForeignKey):
            return NotImplemented
        return bool(self.deconstruct() == other.deconstruct())

    def __hash__(self) -> int:
        return hash((self.name, self.columns, self.to_table, self.to_columns))
