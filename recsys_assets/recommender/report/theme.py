"""Theme of all charts (colours, fonts) and their export as PNG and SVG.

The contents of charts belong in the modules that draw them, the style of the page in `report.css`, which overrides the
neutral colours of this module in dark mode.
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
# After Okabe and Ito (2008), "Color Universal Design": distinguishable with any colour vision. Orange, purple and sky
# blue are darker than theirs, and a dark brown replaces their yellow: each has a contrast of 3 : 1 with a white page.
# `report.css` replaces black and brown on a dark page.
BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, BLACK, BROWN = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#b87d00",
    "#c46a9b",
    "#2f94cf",
    "#3d3d3d",
    "#7f4f0f",
)
CATEGORIES = (BLUE, ORANGE, GREEN, PURPLE, VERMILLION, SKY, BLACK, BROWN)
# Width of the column of the report; a PNG at scale 2 is legible on any screen.
WIDTH = 680
FONT = "Helvetica, Arial, Liberation Sans, sans-serif"

# Dagster's UI shows a picture in a dialog, which in a window of 1280 pixels is 900 wide and cuts what is wider.
MAX_PNG_WIDTH = 900
# Dagster's event log stores the PNG with each materialization; larger files make the log slow to read.
MAX_PNG_BYTES = 200_000
# A finished chart: its specification in Vega-Lite's JSON, with title and theme.
Spec = dict[str, Any]

# Altair's version of Vega-Lite in the form of vl-convert: v6_4.
_VEGA_LITE = "_".join(alt.SCHEMA_VERSION.split(".")[:2])
_PNG_SCALE, _PNG_SHARES = 2.0, (1.0, 0.8, 0.6)
_SVG_WIDTH = re.compile(r'\bwidth="([0-9.]+)"')
# Vega writes positions with 15 digits; differences below a hundredth of a pixel are invisible.
_COORDINATES = re.compile(r'\b(?:transform|d|x2|y2)="[^"]*"')
_LONG_DECIMAL = re.compile(r"(\.\d\d)\d+")

_AXIS: Spec = {
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
_CONFIG: Spec = {
    "font": FONT,
    # Hundreds of aria labels, one per mark, would double the size of a chart; the page describes each chart as a whole.
    "aria": False,
    "padding": 8,
    "view": {"stroke": None},
    "axis": _AXIS,
    "axisY": {"ticks": False, "domain": False},
    "legend": {
        "labelColor": MUTED,
        "titleColor": MUTED,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
    },
    "header": {"labelColor": INK, "labelFontSize": 13, "labelFontWeight": "bold", "titleColor": MUTED},
    "title": {
        "color": INK,
        "subtitleColor": MUTED,
        "fontSize": 16,
        "subtitleFontSize": 12.5,
        "subtitleLineHeight": 17,
        "anchor": "start",
        "frame": "bounds",
        "offset": 14,
        "subtitlePadding": 6,
    },
    "text": {"color": INK, "fontSize": 11.5},
}


def finished(chart: ChartType | Spec, title: str, *subtitle: str) -> Spec:
    """The specification of a chart with title, subtitle lines and theme; for top-level charts only."""
    # Altair has validated its encodings already, and a test those written by hand. To validate again would take as long
    # as rendering.
    spec = chart if isinstance(chart, dict) else chart.to_dict(validate=False)
    return spec | {"title": {"text": title, "subtitle": list(subtitle)}, "config": _CONFIG}


def note(title: str, text: str) -> Spec:
    """A chart with a text only, which says why there is nothing to draw."""
    line = alt.Chart(alt.Data(values=[{"text": text}])).mark_text(align="left", fontSize=13, color=MUTED)
    return finished(line.encode(x=alt.XValue(0), text=alt.Text("text:N")).properties(width=WIDTH, height=28), title)


def category_scale(values: Sequence[int]) -> alt.Scale:
    """One colour per value; up to seven values are distinguishable with any colour vision."""
    if len(values) <= len(CATEGORIES):
        return alt.Scale(domain=list(values), range=list(CATEGORIES[: len(values)]))
    return alt.Scale(domain=list(values), scheme="tableau20")


def to_png(chart: Spec) -> bytes:
    """The chart as a PNG on white, at most `MAX_PNG_WIDTH` pixels wide, below `MAX_PNG_BYTES`.

    Raises:
        ValueError: the PNG is too large even at its smallest scale; draw less, or store an SVG.
        DrawingError: the chart library cannot render the chart.
    """
    svg = _svg(chart)
    # A chart of the report's width keeps its size, a narrow one gets sharper, and a wide one is made to fit.
    widest = MAX_PNG_WIDTH / float(_SVG_WIDTH.search(svg)[1])  # type: ignore[index]
    for share in _PNG_SHARES:
        png = _packed(drawing.png(svg, share * min(_PNG_SCALE, widest)))
        if len(png) <= MAX_PNG_BYTES:
            return png
    raise ValueError(
        f"the picture takes {len(png):,} bytes as a PNG, more than {MAX_PNG_BYTES:,}: draw fewer rows of it, "
        "or use to_svg"
    )


def alternative_text(chart: Spec) -> str:
    """What a chart shows, in words: its title and the lines below it."""
    title = chart["title"]
    return ". ".join(line.rstrip(".") for line in (title["text"], *title["subtitle"]) if line)


def _packed(png: bytes) -> bytes:
    """The PNG with at most 256 colours, which takes a fraction of the bytes of vl-convert's 32-bit PNG."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(256).save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def to_svg(chart: Spec) -> str:
    """The chart as an SVG with transparent background, for pages of any colour."""
    svg = _svg(chart | {"background": "transparent"})
    return _COORDINATES.sub(lambda found: _LONG_DECIMAL.sub(r"\1", found[0]), svg)


def _svg(chart: Spec) -> str:
    return drawing.svg(chart, _VEGA_LITE)
