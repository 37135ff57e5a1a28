import re

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recsys_assets.orchestration.assets.common import pictures
from recsys_assets.recommender.data.characters import visible
from recsys_assets.recommender.data.frames import lazy
from recsys_assets.recommender.report import charts, drawing
from recsys_assets.recommender.report.page import _figures
from recsys_assets.recommender.report.theme import note

# What vl-convert 1.8 aborts its process on, and what it or JSON refuses.
DEADLY = ("\x00", "\x01", "\x0b", "\x0c", "\x1b", "\x1f", "\ufffe", "\uffff", "\ud800")
# SVG, not yet made drawable: the child dies of it.
ABORTING = {
    "svg": {
        "data": {"values": [{"title": "vertical\x0btab"}]},
        "mark": "text",
        "encoding": {"text": {"field": "title"}},
    },
    "version": "v6_4",
}


def _by_title(title: str) -> str:
    """The SVG of a chart that shows an item's title in a heading, as the report draws it."""
    rated = pl.DataFrame({"segment": [0, 1], "item": [0, 0], "count": [20, 20], "mean": [3.0, 4.0]})
    items = pl.DataFrame({"item": [0], "title": [title]})
    return charts.to_svg(charts.rating_by_segment(lazy(rated), lazy(items)))


@pytest.mark.parametrize("character", DEADLY, ids=ascii)
def test_a_character_that_no_chart_can_show_is_shown_as_another(character: str) -> None:
    """One title with a vertical tab would end every run of the home."""
    svg = charts.to_svg(note("A title", f"before{character}after"))
    assert f"before{visible(character)}after" in svg
    assert charts.to_png(note("A title", f"before{character}after")).startswith(b"\x89PNG")


@settings(max_examples=40)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40))
@example("\u202egnp.exe")
@example("\U0001fffe\ufdd0\x85")
@example("👩\u200d👩\u200d👧 a\u0301")
def test_every_title_is_drawn(title: str) -> None:
    """Some text that nobody thought of would end every run of the home."""
    assert _by_title(title).startswith("<svg")


def test_an_endless_text_is_cut() -> None:
    """Measuring a title of 100,000 characters took minutes, for each picture that shows it."""
    assert re.search(r"x{300}…", _by_title("x" * 100_000))


def test_a_picture_that_kills_the_chart_library_costs_that_picture_only() -> None:
    """A bug of the chart library would end the run, with exit status 134 and no word."""
    with pytest.raises(drawing.DrawingError, match="SIGABRT"):
        drawing._CHILD.ask(ABORTING)
    assert charts.to_png(note("The next one", "is drawn")).startswith(b"\x89PNG")


def test_a_picture_that_cannot_be_drawn_is_a_sentence_in_its_place(caplog: pytest.LogCaptureFixture) -> None:
    """A picture, on which nothing rests, would end a run."""

    def broken() -> None:
        raise drawing.DrawingError("the chart library ended its process (SIGABRT)")

    told = "No picture 'ratings': DrawingError: the chart library ended its process (SIGABRT)"
    assert pictures("ratings", broken)["ratings"].value == told
    assert told in caplog.text
    warned: list[str] = []
    assert _figures({"ratings": broken}, warned.append) == {"ratings": f"<p>{told.replace(chr(39), '&#39;')}</p>"}
    assert warned == [told]


def test_a_run_has_all_its_pictures(first_run) -> None:
    """A mistake in a chart would be a line in the log and nothing else."""
    home, printed = first_run
    assert "No picture" not in printed.output
    assert "No picture" not in home.report.read_text()
