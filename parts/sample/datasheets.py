"""Multi-page PDF datasheets: title page, pin table, characteristics, graphs, drawing, ordering.

The writer's own clock and identifiers are switched off (`invariant`), so that the bytes depend on
the description alone (and on reportlab's version).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

from reportlab.lib import colors
from reportlab.lib.enums import TA_CENTER
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import (
    Flowable,
    KeepTogether,
    PageBreak,
    Paragraph,
    SimpleDocTemplate,
    Spacer,
    Table,
    TableStyle,
)

from parts.sample.catalog import Family
from parts.sample.drawings import FAINT, INK, GraphDrawing, PackageDrawing
from parts.sample.figures import FIGURES

_MARGIN: Final = 18 * mm
_WIDTH: Final = A4[0] - 2 * _MARGIN
_ACCENTS: Final = ("#0b5cad", "#a61e22", "#1e6b46", "#5b3b8c", "#b1560f", "#22606b")
_ORDERING_ROWS: Final = 60


@dataclass(frozen=True, slots=True)
class Datasheet:
    """The datasheet of a family, in its `edition`: a later one has other bytes."""

    family: Family
    edition: int

    def write(self, target: Path, megapixels: float = 0) -> None:
        """Render to `target`; it has no pixels to choose. Raises OSError."""
        family = self.family
        number = sum(map(ord, family.series)) * 37 % 9000 + 1000
        document = SimpleDocTemplate(
            str(target),
            pagesize=A4,
            leftMargin=_MARGIN,
            rightMargin=_MARGIN,
            topMargin=26 * mm,
            bottomMargin=20 * mm,
            title=f"{family.manufacturer} {family.series}: {family.summary}",
            author=family.manufacturer,
            subject=f"DS{number}, revision {self.edition}",
            invariant=1,
        )
        accent = colors.HexColor(_ACCENTS[number % len(_ACCENTS)])
        frame = partial(_frame, family, f"DS{number}  Rev. {self.edition}", accent)
        document.build(_story(self, accent), onFirstPage=frame, onLaterPages=frame)


def _frame(
    family: Family, number: str, accent: colors.Color, canvas: Canvas, document: Any
) -> None:
    """What every page carries: a band with the maker above, the document's number below."""
    width, height = A4
    canvas.setFillColor(accent)
    canvas.rect(0, height - 15 * mm, width, 15 * mm, stroke=0, fill=1)
    canvas.setFillColor(colors.white)
    canvas.setFont("Helvetica-Bold", 13)
    canvas.drawString(_MARGIN, height - 10 * mm, family.manufacturer)
    canvas.setFont("Helvetica", 9)
    canvas.drawRightString(width - _MARGIN, height - 10 * mm, family.series)
    canvas.setFillColor(INK)
    canvas.setStrokeColor(FAINT)
    canvas.line(_MARGIN, 14 * mm, width - _MARGIN, 14 * mm)
    canvas.setFont("Helvetica", 7)
    canvas.drawString(_MARGIN, 10 * mm, f"{number}    Demonstration document, not for design use")
    canvas.drawRightString(width - _MARGIN, 10 * mm, f"Page {canvas.getPageNumber()}")


@cache
def _style(name: str) -> ParagraphStyle:
    body = ParagraphStyle("body", fontName="Helvetica", fontSize=9, leading=12.5, textColor=INK)
    if name == "title":
        return ParagraphStyle(
            name, body, fontName="Helvetica-Bold", fontSize=22, leading=27, spaceAfter=3 * mm
        )
    if name == "heading":
        return ParagraphStyle(
            *(name, body),
            fontName="Helvetica-Bold",
            fontSize=12,
            leading=15,
            spaceBefore=5 * mm,
            spaceAfter=2 * mm,
        )
    if name == "bullet":
        return ParagraphStyle(name, body, leftIndent=5 * mm, bulletIndent=1 * mm)
    if name == "cell":
        return ParagraphStyle(name, body, fontSize=7.5, leading=9)
    if name == "centre":
        return ParagraphStyle(name, body, fontSize=7.5, leading=9, alignment=TA_CENTER)
    return body


def _text(text: str, style: str = "body") -> Paragraph:
    # The standard fonts have no capital omega; Symbol has, in the place of the W.
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace("Ω", "<greek>W</greek>")
    return Paragraph(escaped, _style(style))


def _story(sheet: Datasheet, accent: colors.Color) -> list[Flowable]:
    family = sheet.family
    figures = FIGURES[family.sheet]
    packages = list({item.package.name: item.package for item in family.items}.values())
    graphs: list[Flowable] = [GraphDrawing(graph, _WIDTH * 0.98) for graph in figures.graphs]
    return [
        *_title(family, sheet.edition),
        *(_text("Pin description", "heading"), _pins(family, accent), PageBreak()),
        _text("Absolute maximum ratings", "heading"),
        _table(("Parameter", "Value", "Unit"), figures.limits, (0.55, 0.3, 0.15), accent),
        _text("Electrical characteristics", "heading"),
        _table(
            *(("Parameter", "Conditions", "Min", "Typ", "Max", "Unit"), figures.rows),
            *((0.34, 0.26, 0.11, 0.1, 0.1, 0.09), accent),
        ),
        Spacer(0, 3 * mm),
        _text(
            "At 25 °C unless stated otherwise. Limits hold over the operating temperature range."
        ),
        *(PageBreak(), _text("Typical characteristics", "heading"), *graphs),
        *(PageBreak(), _text("Package outline", "heading")),
        *(PackageDrawing(package, _WIDTH) for package in packages[:2]),
        _text("Ordering information", "heading"),
        _ordering(family, accent),
    ]


def _title(family: Family, edition: int) -> list[Flowable]:
    bullets = [Paragraph(feature, _style("bullet"), bulletText="•") for feature in family.features]
    example = family.items[0]
    return [
        _text(family.series, "title"),
        _text(family.summary),
        KeepTogether([_text("Features", "heading"), *bullets]),
        _text("Description", "heading"),
        _text(
            f"The {family.series} series covers {len(family.items)} types, among them "
            f"{example.code} ({example.description}). They are supplied for "
            f"{example.package.mounting} assembly; {family.items[-1].code} is the last entry of "
            f"the ordering table. This is revision {edition} of the document and replaces all "
            "earlier ones."
        ),
    ]


def _pins(family: Family, accent: colors.Color) -> Table:
    """Pin numbers and names, in as many columns as keep the table on the title page."""
    columns = 1 if len(family.pins) <= 8 else 2 if len(family.pins) <= 28 else 4
    depth = -(-len(family.pins) // columns)
    rows = []
    for row in range(depth):
        cells: list[str] = []
        for column in range(columns):
            pin = row + column * depth
            inside = pin < len(family.pins)
            cells += [str(pin + 1), family.pins[pin]] if inside else ["", ""]
        rows.append(tuple(cells))
    head = ("Pin", "Name") * columns
    return _table(head, rows, (0.3 / columns, 0.7 / columns) * columns, accent)


def _ordering(family: Family, accent: colors.Color) -> Table:
    shown = family.items[:_ORDERING_ROWS]
    rows = [
        (item.code, item.description, item.package.name, item.voltage_rating or item.input_voltage)
        for item in shown
    ]
    return _table(
        ("Type", "Description", "Package", "Voltage"), rows, (0.24, 0.45, 0.17, 0.14), accent
    )


def _table(
    head: tuple[str, ...],
    rows: Sequence[tuple[str, ...]],
    widths: tuple[float, ...],
    accent: colors.Color,
) -> Table:
    cells: list[list[Any]] = [list(head)]
    cells += [
        [_text(cell, "cell") if "Ω" in cell or len(cell) > 22 else cell for cell in row]
        for row in rows
    ]
    table = Table(cells, [_WIDTH * width for width in widths], repeatRows=1)
    table.setStyle(
        TableStyle(
            [
                ("FONT", (0, 0), (-1, 0), "Helvetica-Bold", 7.5),
                ("FONT", (0, 1), (-1, -1), "Helvetica", 7.5),
                ("TEXTCOLOR", (0, 1), (-1, -1), INK),
                ("BACKGROUND", (0, 0), (-1, 0), accent),
                ("TEXTCOLOR", (0, 0), (-1, 0), colors.white),
                ("ROWBACKGROUNDS", (0, 1), (-1, -1), [colors.white, colors.HexColor("#f3f5f7")]),
                ("GRID", (0, 0), (-1, -1), 0.3, FAINT),
                ("TOPPADDING", (0, 0), (-1, -1), 2),
                ("BOTTOMPADDING", (0, 0), (-1, -1), 2),
                ("VALIGN", (0, 0), (-1, -1), "MIDDLE"),
            ]
        )
    )
    return table
