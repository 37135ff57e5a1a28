"""How every chart looks, and how it becomes a file: colours, fonts, PNG and SVG.

What a chart shows belongs to the modules that draw; the page's own style is in `report.css`, which overrides the
neutral colours below in dark mode.
"""

import io
import re
from collections.abc import Sequence
from typing import Any

import altair as alt
from altair.typing import ChartType
from PIL import Image

from recsys_assets.recommender.report import drawing

INK = "#1f2430"
MUTED = "#5c6470"
GRID = "#e3e1db"
# Okabe and Ito (2008), "Color Universal Design", told apart with any colour vision; and a dark brown in place of their
# yellow, which is too light for lines.
BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, BLACK, BROWN = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#e69f00",
    "#cc79a7",
    "#56b4e9",
    "#3d3d3d",
    "#7f4f0f",
)
CATEGORIES = (BLUE, ORANGE, GREEN, PURPLE, VERMILLION, SKY, BLACK, BROWN)
# Wide enough for a report's column; a PNG at scale 2 is legible on any screen.
WIDTH = 680
FONT = "Helvetica, Arial, Liberation Sans, sans-serif"

# A picture is kept in Dagster's event log with each materialization; larger ones make the log slow to read.
MAX_PNG_BYTES = 200_000
# The version of Vega-Lite that Altair writes, in the form vl-convert wants: v6_4.
_VEGA_LITE = "_".join(alt.SCHEMA_VERSION.split(".")[:2])
_PNG_SCALES = (2.0, 1.5, 1.2, 1.0)
# Vega writes positions with 15 digits; a hundredth of a pixel is not seen.
_COORDINATES = re.compile(r'\b(?:transform|d|x2|y2)="[^"]*"')
_LONG_DECIMAL = re.compile(r"(\.\d\d)\d+")

_AXIS: dict[str, Any] = {
    "labelColor": MUTED,
    "titleColor": MUTED,
    "labelFontSize": 12,
    "titleFontSize": 12,
    "titleFontWeight": "normal",
    "titlePadding": 8,
    "gridColor": GRID,
    "domainColor": GRID,
    "tickColor": GRID,
    "labelLimit": 320,
}
_CONFIG: dict[str, Any] = {
    "font": FONT,
    # Hundreds of aria labels, one per mark, would double a picture's size; the page describes each picture as a whole.
    "aria": False,
    "padding": 8,
    "view": alt.ViewConfig(stroke=None),
    "axis": alt.AxisConfig(**_AXIS),
    "axisY": alt.AxisConfig(ticks=False, domain=False),
    "legend": alt.LegendConfig(
        labelColor=MUTED, titleColor=MUTED, labelFontSize=12, titleFontSize=12, titleFontWeight="normal"
    ),
    "header": alt.HeaderConfig(labelColor=INK, labelFontSize=13, labelFontWeight="bold", titleColor=MUTED),
    "title": alt.TitleConfig(
        color=INK,
        subtitleColor=MUTED,
        fontSize=16,
        subtitleFontSize=12.5,
        subtitleLineHeight=17,
        anchor="start",
        frame="bounds",
        offset=14,
        subtitlePadding=6,
    ),
    "text": alt.MarkConfig(color=INK, fontSize=11.5),
}


def finished(chart: ChartType, title: str, *subtitle: str) -> ChartType:
    """The chart with its title, lines of explanation under it, and the common look. For outermost charts only."""
    header = alt.TitleParams(title, subtitle=list(subtitle))
    return chart.properties(title=header).configure(**_CONFIG)


def note(title: str, text: str) -> ChartType:
    """A chart that only says why there is nothing to draw."""
    line = alt.Chart(alt.Data(values=[{"text": text}])).mark_text(align="left", fontSize=13, color=MUTED)
    return finished(line.encode(x=alt.XValue(0), text=alt.Text("text:N")).properties(width=WIDTH, height=28), title)


def category_scale(values: Sequence[int]) -> alt.Scale:
    """One colour per value, distinguishable with any colour vision up to seven values."""
    if len(values) <= len(CATEGORIES):
        return alt.Scale(domain=list(values), range=list(CATEGORIES[: len(values)]))
    return alt.Scale(domain=list(values), scheme="tableau20")


def to_png(chart: ChartType) -> bytes:
    """The chart as a PNG on white, below `MAX_PNG_BYTES`, as sharp as that allows (at most two pixels per unit).

    Raises:
        ValueError: even at one pixel per unit it is too large; draw less of it, or store an SVG.
        DrawingError: the chart library cannot draw it.
    """
    svg = _svg(chart)
    bytes_per_scale = 0.0
    for scale in _PNG_SCALES:
        # A picture's bytes grow about as its scale does: what cannot fit is not worth a second of drawing.
        if scale > _PNG_SCALES[-1] and bytes_per_scale * scale > MAX_PNG_BYTES:
            continue
        png = _packed(drawing.png(svg, scale))
        if len(png) <= MAX_PNG_BYTES:
            return png
        bytes_per_scale = len(png) / scale
    raise ValueError(
        f"the picture takes {len(png):,} bytes as a PNG, more than {MAX_PNG_BYTES:,}: draw fewer rows of it, "
        "or use to_svg"
    )


def _packed(png: bytes) -> bytes:
    """The same picture with at most 256 colours: a fraction of the bytes of the 32-bit PNG that vl-convert writes."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(256).save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def to_svg(chart: ChartType) -> str:
    """The chart as an SVG without background, so that it can stand on a page of any colour."""
    see_through = chart.copy(deep=False)
    see_through.background = "transparent"
    return _COORDINATES.sub(lambda found: _LONG_DECIMAL.sub(r"\1", found[0]), _svg(see_through))


def _svg(chart: ChartType) -> str:
    # What is not valid has been refused where it was encoded; a second pass would take as long as the drawing.
    spec = chart.to_dict(validate=False)
    return drawing.svg(spec, _VEGA_LITE)
