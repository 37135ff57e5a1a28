"""Dagster's UI in a browser: a home that a run of the command line has filled, behind `recsys-assets serve`."""

from collections.abc import Iterator

import pytest

from recsys_assets.orchestration.build import build_defs
from recsys_assets_tests.running import copied
from recsys_assets_tests.served import Served, served

pytestmark = pytest.mark.slow
TEXT = "document.body.innerText"


@pytest.fixture(scope="module")
def ui(materialized_home, tmp_path_factory) -> Iterator[Served]:
    """The UI; nothing runs by itself."""
    home = copied(materialized_home, tmp_path_factory.mktemp("ui") / "home")
    with home.settings_file.open("a") as settings:
        settings.write("\n[automation]\nsensors = false\nschedule = false\n")
    with served(home) as instance:
        yield instance


@pytest.fixture
def browser(browser):
    """A browser with a window as people have it."""
    browser.resize(1280, 900)
    return browser


def test_graph_shows_every_stage(browser, ui):
    """The first page of the UI would be empty, or show a hundred assets without an order."""
    nodes = build_defs(home=ui.home).get_repository_def().asset_graph.asset_nodes
    groups = sorted({node.group_name for node in nodes})
    assert len(groups) <= 10
    browser.open(f"{ui.address}/asset-groups")
    browser.wait(f"{groups}.every(group => {TEXT}.includes(group)) && !!document.querySelector('svg foreignObject')")


def test_picture_of_an_asset_is_complete(browser, ui):
    """A chart would be cut at its right side in a window of a laptop, or not be there."""
    browser.open(f"{ui.address}/assets/evaluation_scores?view=events")
    browser.wait(f"{TEXT}.includes('[Show Markdown]')")
    shows = "[...document.querySelectorAll('*')].filter(each => each.innerText === '[Show Markdown]')"
    browser.value(f"{shows}.at(-1).click()")
    picture = "document.querySelector('img[src^=\"data:image/png\"]')"
    browser.wait(f"!!{picture} && {picture}.complete && {picture}.naturalWidth > 0")
    cut = f"""
(() => {{
  const box = {picture}.getBoundingClientRect();
  const around = [];
  for (let each = {picture}.parentElement; each; each = each.parentElement) around.push(each);
  const inside = around.filter(each => getComputedStyle(each).overflowX !== "visible");
  const edges = inside.map(each => each.getBoundingClientRect()).concat([{{left: 0, right: innerWidth}}]);
  return box.width < 300 || edges.some(({{left, right}}) => box.left < left - 1 || box.right > right + 1);
}})()"""
    # The dialog grows while it opens.
    browser.wait(f"!{cut}")
    assert len(str(browser.value(f"{picture}.alt"))) > 40


def test_run_of_the_command_line_stands_under_its_job_and_in_the_timeline(browser, ui):
    """Who looks for last night's run would find neither its job nor whether it succeeded."""
    browser.open(f"{ui.address}/jobs")
    browser.wait(f"/everything\\s.*ago/.test({TEXT})")
    browser.open(f"{ui.address}/locations/recsys_assets/jobs/everything/runs")
    browser.wait(f"{TEXT}.includes('Success')")
    assert browser.value(f"{TEXT}.includes('recsys_process')") is False
    browser.open(f"{ui.address}/overview/timeline")
    browser.wait(f"/Now[^]*everything/.test({TEXT})")


@pytest.mark.parametrize(
    ("job", "shown", "hidden"),
    [("refresh", ["checks:", "evaluation:"], ["data:"]), ("recommend", ["scale:", "serving:"], ["splitting:"])],
)
def test_launchpad_shows_what_a_run_of_the_job_reads(browser, ui, job, shown, hidden):
    """Whoever launches a run would scroll past the settings of two dozen models, or change the folder of the home."""
    browser.open(f"{ui.address}/locations/recsys_assets/jobs/{job}/playground")
    filled_in = "document.querySelector('.CodeMirror')?.CodeMirror.getValue()"
    browser.wait(f"{filled_in}?.includes('config:')")
    lines = str(browser.value(filled_in)).splitlines()
    sections = {line.strip() for line in lines}
    assert [line.strip() for line in lines[:4]] == ["resources:", "settings:", "config:", "checks:"]
    assert sections.issuperset(shown)
    assert sections.isdisjoint([*hidden, "als:", "automation:", "instance:"])
    assert str(ui.home.path) not in "".join(lines)


def test_report_opens_beside_the_ui(browser, ui):
    """The link of the report would lead to the UI's own page, or to a page whose script is blocked."""
    browser.open(f"{ui.address}/report")
    assert "What to do next" in str(browser.value(TEXT))
    assert browser.value("document.querySelectorAll('thead button').length") > 0
    assert browser.errors == []
