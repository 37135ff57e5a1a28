import base64
import io
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import polars as pl
import pytest
from websockets.sync.client import ClientConnection, connect

from recsys_assets.recommender.report.page import render_page
from recsys_assets_tests.served import free_port
from recsys_assets_tests.test_report import _inputs, _scores, _tables

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt-get install chromium)"),
]


class Browser:
    """A page in headless Chromium, driven by the DevTools protocol; `errors` holds messages of the console."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._calls = 0
        self.errors: list[str] = []
        for domain in ("Log", "Runtime", "Page"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: object) -> dict:
        """The result of a DevTools method."""
        self._calls += 1
        self._connection.send(json.dumps({"id": self._calls, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv(timeout=60))
            if message.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown"):
                self.errors.append(json.dumps(message["params"]))
            if message.get("id") == self._calls:
                return message["result"]

    def value(self, expression: str) -> object:
        """The value of a JavaScript expression."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def open(self, path: Path) -> None:
        """Load a file and wait until it is complete."""
        self.call("Page.navigate", url=path.as_uri())
        while self.value("document.readyState + location.protocol") != "completefile:":
            time.sleep(0.1)


@pytest.fixture
def browser(tmp_path) -> Iterator[Browser]:
    """Headless Chromium with an empty profile."""
    port = free_port()
    process = subprocess.Popen(
        [
            *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--remote-debugging-port={port}"),
            *(f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1280,1000", "about:blank"),
        ],
        stderr=subprocess.DEVNULL,
    )
    try:
        with connect(_page(port), max_size=None) as connection:
            yield Browser(connection)
    finally:
        process.kill()
        process.wait()


def _page(port: int) -> str:
    """The WebSocket address of the first page, once Chromium answers."""
    for _ in range(600):
        try:
            with urlopen(f"http://127.0.0.1:{port}/json") as answer:
                pages = [each for each in json.load(answer) if each["type"] == "page"]
            return str(pages[0]["webSocketDebuggerUrl"])
        except (OSError, IndexError):
            time.sleep(0.1)
    raise AssertionError("Chromium does not answer")


def test_report_sorts_filters_folds_and_lets_scores_be_saved(browser, tmp_path):
    """Buttons of the report would do nothing, or the page's own policy would stop its script."""
    path = tmp_path / "index.html"
    path.write_text(render_page(_inputs(_tables(), _scores())))
    browser.open(path)
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
def test_report_never_scrolls_sideways(browser, tmp_path, width):
    """On a phone the whole page would have to be pushed left and right to be read."""
    path = tmp_path / "index.html"
    path.write_text(render_page(_inputs(_tables(), _scores())))
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 500)
    browser.open(path)
    browser.value("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert browser.value("document.documentElement.scrollWidth <= innerWidth") is True


def test_text_of_charts_is_legible_on_a_phone(browser, tmp_path):
    """Charts would shrink with the screen until nobody can read their labels, or could not be pushed by a keyboard."""
    path = tmp_path / "index.html"
    path.write_text(render_page(_inputs(_tables(), _scores())))
    browser.call("Emulation.setDeviceMetricsOverride", width=390, height=800, deviceScaleFactor=1, mobile=True)
    browser.open(path)
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
