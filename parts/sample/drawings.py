"""Flowables of the sample datasheets: a graph with its axes, and a package with dimensions."""

from __future__ import annotations

from typing import Final

from reportlab.lib import colors
from reportlab.lib.units import mm
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import Flowable

from parts.sample.catalog import Package, Shape
from parts.sample.graphs import Axis, Graph

INK: Final = colors.HexColor("#1c2733")
FAINT: Final = colors.HexColor("#c9d0d8")
CURVES: Final = tuple(
    colors.HexColor(code) for code in ("#0b5cad", "#c0392b", "#1e8449", "#7d3c98")
)
_SAMPLES: Final = 60
_TWO_SIDED: Final = {Shape.DUAL, Shape.GULL, Shape.QFN, Shape.MODULE, Shape.TACT}
"""Packages with a row of pins along both long sides; the others have one row."""


def _tick(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


class GraphDrawing(Flowable):
    """A graph 98 mm high, its legend beside its title."""

    def __init__(self, graph: Graph, width: float) -> None:
        super().__init__()
        self.graph, self.width, self.height = graph, width, 98 * mm

    def draw(self) -> None:
        canvas: Canvas = self.canv
        left, bottom = 15 * mm, 12 * mm
        width, height = self.width - left - 4 * mm, self.height - bottom - 8 * mm
        canvas.setFont("Helvetica-Bold", 8.5)
        canvas.setFillColor(INK)
        canvas.drawString(left, self.height - 5 * mm, self.graph.title)
        self._grid(canvas, (left, bottom, width, height))
        canvas.setLineWidth(1.1)
        canvas.setFont("Helvetica", 6.5)
        for number, (name, curve) in enumerate(self.graph.curves):
            canvas.setStrokeColor(CURVES[number])
            canvas.setFillColor(CURVES[number])
            path = canvas.beginPath()
            for step in range(_SAMPLES + 1):
                x = step / _SAMPLES
                y = self.graph.y.place(curve(self.graph.x.value(x)))
                move = path.lineTo if step else path.moveTo
                move(left + x * width, bottom + y * height)
            canvas.drawPath(path, stroke=1, fill=0)
            start = left + width - (len(self.graph.curves) - number) * 24 * mm
            line = self.height - 5 * mm
            canvas.line(start, line + 0.8 * mm, start + 5 * mm, line + 0.8 * mm)
            canvas.drawString(start + 6 * mm, line, name)

    def _grid(self, canvas: Canvas, box: tuple[float, float, float, float]) -> None:
        left, bottom, width, height = box
        canvas.setLineWidth(0.3)
        canvas.setStrokeColor(FAINT)
        canvas.setFillColor(INK)
        canvas.setFont("Helvetica", 6)
        for value in self.graph.x.ticks():
            x = left + self.graph.x.place(value) * width
            canvas.line(x, bottom, x, bottom + height)
            canvas.drawCentredString(x, bottom - 3.2 * mm, _tick(value))
        for value in self.graph.y.ticks():
            y = bottom + self.graph.y.place(value) * height
            canvas.line(left, y, left + width, y)
            canvas.drawRightString(left - 1.2 * mm, y - 0.7 * mm, _tick(value))
        canvas.setStrokeColor(INK)
        canvas.setLineWidth(0.7)
        canvas.rect(left, bottom, width, height)
        _axis_labels(canvas, self.graph.x, self.graph.y, box)


def _axis_labels(
    canvas: Canvas, across: Axis, up: Axis, box: tuple[float, float, float, float]
) -> None:
    left, bottom, width, height = box
    canvas.setFont("Helvetica", 7)
    canvas.drawCentredString(left + width / 2, bottom - 7.5 * mm, across.label)
    canvas.saveState()
    canvas.translate(left - 10.5 * mm, bottom + height / 2)
    canvas.rotate(90)
    canvas.drawCentredString(0, 0, up.label)
    canvas.restoreState()


class PackageDrawing(Flowable):
    """A package from above and from the side, with dimensions in millimetres."""

    def __init__(self, package: Package, width: float) -> None:
        super().__init__()
        self.package, self.width, self.height = package, width, 88 * mm

    def draw(self) -> None:
        canvas: Canvas = self.canv
        body = self.package
        scale = min(95 * mm / body.length, 34 * mm / max(body.width, 0.1), 22 * mm / body.height)
        length, width, high = body.length * scale, body.width * scale, body.height * scale
        x, top = (self.width - length) / 2, 42 * mm
        canvas.setStrokeColor(INK)
        canvas.setFillColor(INK)
        canvas.setLineWidth(0.9)
        canvas.rect(x, top, length, width)
        if body.pins > 2 and body.shape in {Shape.DUAL, Shape.GULL, Shape.QUAD, Shape.QFN}:
            canvas.circle(x + 3 * mm, top + 3 * mm, 1 * mm)
        self._pins(canvas, (x, top, length, width), scale)
        side = 9 * mm
        canvas.rect(x, side, length, high)
        canvas.setLineWidth(0.4)
        canvas.line(x - 8 * mm, side, x + length + 8 * mm, side)
        _dimension(
            canvas, (x, top + width + 9 * mm), (x + length, top + width + 9 * mm), body.length
        )
        _dimension(
            canvas, (x + length + 9 * mm, top), (x + length + 9 * mm, top + width), body.width
        )
        _dimension(canvas, (x - 10 * mm, side), (x - 10 * mm, side + high), body.height)
        canvas.setFont("Helvetica-Oblique", 7)
        canvas.drawString(0, self.height - 4 * mm, f"{body.name}, dimensions in millimetres")
        canvas.drawString(0, 2 * mm, "Side view below, top view above. Not to scale.")

    def _pins(self, canvas: Canvas, box: tuple[float, float, float, float], scale: float) -> None:
        body = self.package
        x, y, length, width = box
        square = body.shape in {Shape.QUAD, Shape.QFN} and body.pins >= 16
        two_sided = body.shape in _TWO_SIDED
        row = body.pins // 4 if square else -(-body.pins // (2 if two_sided else 1))
        if row < 1 or body.pitch <= 0:
            return
        pitch = min(body.pitch * scale, length / row)
        thick, reach = pitch * 0.4, min(4 * mm, pitch)
        canvas.setLineWidth(0.5)
        for number in range(row):
            at = (number - (row - 1) / 2) * pitch - thick / 2
            canvas.rect(x + length / 2 + at, y - reach, thick, reach)
            if number < body.pins - row or square:
                canvas.rect(x + length / 2 + at, y + width, thick, reach)
            if square:
                canvas.rect(x - reach, y + width / 2 + at, reach, thick)
                canvas.rect(x + length, y + width / 2 + at, reach, thick)


def _dimension(
    canvas: Canvas, start: tuple[float, float], end: tuple[float, float], value: float
) -> None:
    """A dimension line with arrows at both ends, level or upright."""
    canvas.setLineWidth(0.35)
    canvas.line(*start, *end)
    level = start[1] == end[1]
    for (x, y), sign in ((start, 1), (end, -1)):
        along, aside = 2.2 * mm * sign, 0.7 * mm
        path = canvas.beginPath()
        path.moveTo(x, y)
        for shift in (aside, -aside):
            path.lineTo(x + (along if level else shift), y + (shift if level else along))
        path.close()
        canvas.drawPath(path, stroke=0, fill=1)
    canvas.setFont("Helvetica", 8)
    middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
    if level:
        canvas.drawCentredString(middle[0], middle[1] + 1.2 * mm, f"{value:g}")
        return
    canvas.saveState()
    canvas.translate(middle[0] - 1.2 * mm, middle[1])
    canvas.rotate(90)
    canvas.drawCentredString(0, 0, f"{value:g}")
    canvas.restoreState()
