import base64
import io
import time
from importlib.resources import files
from pathlib import Path

import polars as pl
import pytest

from recsys_assets.recommender.report.page import render_page
from recsys_assets_tests.test_report import _inputs, _scores, _tables

pytestmark = pytest.mark.slow

_AXE = files("axe_core_python").joinpath("axe.min.js").read_text()
# Texts of charts that stand out from what is painted behind them by less than 4.5 : 1; axe does not judge texts in SVG.
_PALE = """
const canvas = Object.assign(document.createElement("canvas"), {width: 1, height: 1});
const pen = canvas.getContext("2d", {willReadFrequently: true});
const luminance = (...layers) => {
  for (const [colour, opacity] of layers)
    Object.assign(pen, {globalAlpha: opacity, fillStyle: colour}).fillRect(0, 0, 1, 1);
  const [r, g, b] = [...pen.getImageData(0, 0, 1, 1).data].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const painted = (each) => {
  const style = getComputedStyle(each);
  return [style.fill, style.fill === "none" ? 0 : style.fillOpacity * style.opacity];
};
const page = [getComputedStyle(document.body).backgroundColor, 1];
[...document.querySelectorAll("figure svg")].flatMap((svg) => {
  const marks = [...svg.querySelectorAll("path, rect")].map(mark => [mark, mark.getBoundingClientRect()]);
  const texts = [...svg.querySelectorAll("text")].filter(text => text.textContent.trim());
  return texts.filter(text => +getComputedStyle(text).opacity).filter((text) => {
    const box = text.getBoundingClientRect(), [x, y] = [(box.left + box.right) / 2, (box.top + box.bottom) / 2];
    const behind = marks.filter(([mark, {left, right, top, bottom}]) => left < x && x < right && top < y && y < bottom
      && mark.compareDocumentPosition(text) & Node.DOCUMENT_POSITION_FOLLOWING).map(([mark]) => painted(mark));
    const seen = [luminance(page, ...behind, painted(text)), luminance(page, ...behind)].sort((a, b) => b - a);
    return (seen[0] + 0.05) / (seen[1] + 0.05) < 4.5;
  }).map(text => text.textContent);
})"""


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """A report of small tables with every section."""
    path = tmp_path_factory.mktemp("report") / "index.html"
    path.write_text(render_page(_inputs(_tables(), _scores(), is_movielens=True)))
    return path


def test_report_sorts_filters_folds_and_lets_scores_be_saved(browser, report):
    """Buttons of the report would do nothing, or the page's own policy would stop its script."""
    browser.open(report)
    table = "document.querySelector('#scores-time_cut-rmse table')"
    names = f"[...{table}.tBodies[0].rows].filter(row => !row.hidden).map(row => row.cells[0].textContent.trim())"
    assert browser.value("document.querySelector('#scores-time_cut-rmse').open") is False
    browser.value("location.hash = '#scores-time_cut-rmse'")
    browser.value("document.querySelector('#scores-time_cut-rmse summary').click()")
    assert browser.value(f"{table}.offsetHeight > 0") is True

    click = f"{table}.tHead.rows[0].cells[1].querySelector('button').click()"
    browser.value(click)
    worst_first = browser.value(names)
    browser.value(click)
    best_first = browser.value(names)
    assert str(worst_first[0]).startswith("Item mean") and str(best_first[0]).startswith("Perfect prediction")
    assert sorted(worst_first) == sorted(best_first)

    browser.value(
        "const f = document.querySelector('input.filter'); f.value = 'item m'; f.dispatchEvent(new Event('input'))"
    )
    assert [str(name).split("item_mean")[0] for name in browser.value(names)] == ["Item mean"]

    link = str(browser.value("document.querySelector('#scores-time_cut-rmse a[download]').href"))
    saved = pl.read_csv(io.BytesIO(base64.b64decode(link.split("base64,")[1])))
    assert saved.filter(model="als_adjusted")["value"].to_list() == [0.95]
    assert browser.errors == []


@pytest.mark.parametrize("width", [390, 1280])
def test_report_never_scrolls_sideways(browser, report, width):
    """On a phone the whole page would have to be pushed left and right to be read."""
    browser.resize(width)
    browser.open(report)
    browser.value("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert browser.value("document.documentElement.scrollWidth <= innerWidth") is True


def test_text_of_charts_is_legible_on_a_phone(browser, report):
    """Charts would shrink with the screen until nobody can read their labels, or could not be pushed by a keyboard."""
    browser.resize(390)
    browser.open(report)
    browser.value("document.querySelectorAll('details').forEach(each => each.open = true)")
    time.sleep(0.5)
    smallest = browser.value(
        "Math.min(...[...document.querySelectorAll('figure svg text')].filter(text => text.textContent.trim()).map("
        "text => { const to = text.getScreenCTM();"
        " return parseFloat(getComputedStyle(text).fontSize) * Math.hypot(to.a, to.b); }))"
    )
    assert float(str(smallest)) >= 10.99
    unreachable = (
        "[...document.querySelectorAll('figure')].filter(f => f.scrollWidth > f.clientWidth && f.tabIndex < 0)"
    )
    assert browser.value(f"{unreachable}.length") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280, 1400])
def test_axe_finds_no_fault(browser, report, width, scheme):
    """Somebody with a screen reader, a keyboard or weak eyes could not read the report or its charts."""
    browser.resize(width)
    browser.scheme(scheme)
    browser.open(report)
    browser.value("document.querySelectorAll('details').forEach(each => each.open = true)")
    browser.value(_AXE)
    found = browser.value("axe.run().then(({passes, violations}) => ({passes, violations}))")
    told = [f"{each['id']}: {node['html']}" for each in found["violations"] for node in each["nodes"]]
    assert told == []
    assert browser.value(_PALE) == []
    # Charts are named pictures, and axe has looked at all of them.
    named = next(each for each in found["passes"] if each["id"] == "svg-img-alt")
    assert len(named["nodes"]) == browser.value("document.querySelectorAll('figure').length") > 10
