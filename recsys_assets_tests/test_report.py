import base64
import dataclasses
import datetime as dt
import hashlib
import io
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import altair as alt
import narwhals as nw
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from recsys_assets.home.promotions import Promotions
from recsys_assets.home.running import SparkSettings
from recsys_assets.home.settings import Settings
from recsys_assets.home.versions import AssetStore, scan
from recsys_assets.orchestration.assets.evaluation import _served, headline
from recsys_assets.orchestration.resources import spark_resource
from recsys_assets.recommender.data.frames import conform, lazy
from recsys_assets.recommender.data.tables import TABLES
from recsys_assets.recommender.promotion.gate import Configuration, Decision
from recsys_assets.recommender.registry import ENTRIES
from recsys_assets.recommender.report import charts, labels, theme
from recsys_assets.recommender.report import verdicts as verdicts_module
from recsys_assets.recommender.report.case_studies import CaseStudies
from recsys_assets.recommender.report.cluster_charts import PAIRED_USERS, separating_features
from recsys_assets.recommender.report.page import MAX_CARDS, ReportInputs, render_page
from recsys_assets.recommender.report.published import PUBLISHED
from recsys_assets.recommender.report.score_tables import score_tables
from recsys_assets.recommender.report.segment_cards import segment_cards
from recsys_assets.recommender.report.segment_share_charts import SHOWN
from recsys_assets.recommender.report.standings import contest
from recsys_assets.recommender.report.study_section import StudyTables
from recsys_assets.recommender.report.summary import data_summary
from recsys_assets.recommender.report.verdicts import Served, next_steps, verdicts
from recsys_assets_tests.conftest import invoke
from recsys_assets_tests.running import table

TIME = pl.Datetime("us", "UTC")
NASTY_TITLE = "<script>alert('x')</script> & \"Co\" \u202ehttp://example.org/a.js"
SCORES_SCHEMA = ["protocol", "model", "population", "metric", "value", "n", "low", "high"]

STUDY_TABLES = {
    "trials": "study_trials",
    "settings": "tuned_settings",
    "scores": "study_scores",
    "tests": "paired_tests",
    "audit": "leakage_audit",
    "sweep": "segment_sweep",
}


def _schema(name: str) -> pl.Schema:
    """The Polars types of a declared table."""
    nothing = pl.DataFrame(schema=dict.fromkeys(TABLES[name].columns, pl.Null))
    return conform(lazy(nothing), TABLES[name]).collect().to_native().schema


def _ratings(per_user: list[int]) -> pl.DataFrame:
    """One user per number, with that many ratings of 1 to 5 in turn, one per hour from 2000-01-01 on."""
    user = np.repeat(np.arange(len(per_user)), per_user)
    item = np.concatenate([np.arange(n) for n in per_user] or [np.arange(0)])
    start = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
    return pl.DataFrame(
        {
            "user": user.astype(np.int32),
            "item": item.astype(np.int32),
            "rating": (np.arange(len(user)) % 5 + 1).astype(np.float32),
            "timestamp": pl.Series([start + dt.timedelta(hours=i) for i in range(len(user))], dtype=TIME),
            "batch": np.zeros(len(user), np.int32),
            "row": np.arange(len(user)),
        }
    )


def _items(n: int) -> pl.DataFrame:
    titles = [NASTY_TITLE, *(f"Item {i}" for i in range(1, n))]
    return pl.DataFrame(
        {
            "item": np.arange(n, dtype=np.int32),
            "item_id": [f"m{i}" for i in range(n)],
            "title": titles,
            "year": np.full(n, 1990, np.int32),
            "genres": [["Drama"]] * n,
        }
    )


def _segment_items(n_segments: int, n_items: int) -> pl.DataFrame:
    """Segment s begins with item s; probabilities fall by half from rank to rank, and lifts are in reverse order."""
    titles = _items(n_items)["title"].to_list()
    order = [[(segment + rank) % n_items for rank in range(n_items)] for segment in range(n_segments)]
    places = np.arange(1, n_items + 1)
    return pl.DataFrame(
        {
            "segment": np.repeat(np.arange(n_segments), n_items).astype(np.int32),
            "rank": np.tile(places, n_segments).astype(np.int32),
            "item": np.ravel(order).astype(np.int32),
            "title": [titles[item] for items in order for item in items],
            "probability": np.tile(0.5**places, n_segments),
            "lift_rank": np.tile(places[::-1], n_segments).astype(np.int32),
            "lift": np.tile(places / 2, n_segments),
        }
    )


def _segment_shares(shares: list[float | None], previous: list[float | None], similarity: float = 0.9) -> pl.DataFrame:
    """A row per place: segment and partner of its number, where there is a share; segment 0 is of the nasty title."""
    numbers = range(len(shares))
    pairs = list(zip(numbers, shares, previous, strict=True))
    titles = _items(len(shares))["title"].to_list()
    return pl.DataFrame(
        {
            "segment": [None if now is None else number for number, now, _ in pairs],
            "share": shares,
            "name": [None if now is None else f"{titles[number]} · B" for number, now, _ in pairs],
            "previous_segment": [None if then is None else number for number, _, then in pairs],
            "previous_share": previous,
            "previous_name": [None if then is None else f"{titles[number]} · A" for number, _, then in pairs],
            "similarity": [None if None in pair else similarity for pair in pairs],
        },
        schema=_schema("segment_shares"),
    )


def _user_segments(affinities: list[list[float]]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "user": np.arange(len(affinities), dtype=np.int32),
            "affinity": pl.Series(affinities, dtype=pl.List(pl.Float32)),
            "segment": [int(np.argmax(affinity)) for affinity in affinities],
            "partition": ["test" if user % 3 == 2 else "train" for user in range(len(affinities))],
        },
        schema_overrides={"segment": pl.Int32, "user": pl.Int32},
    )


def _scores() -> pl.DataFrame:
    """Planted: ALS wins for seen users, the item mean for unseen ones; a protocol and metric nobody knows."""
    time_cut = {
        "random": (3.55, 3.50, 3.60),
        "item_mean": (4.28, 4.20, 4.40),
        "als_adjusted": (4.33, 4.35, 4.31),
        "selected": (4.33, 4.35, 4.31),
        "upper_bound": (4.94, 4.90, 4.98),
    }
    rows = [
        ("time_cut", model, population, "top5pct_rating", value, 1_000, value - 0.02, value + 0.02)
        for model, values in time_cut.items()
        for population, value in zip(("all", "seen", "unseen"), values, strict=True)
    ]
    rows += [
        ("time_cut", "item_mean", population, "rmse", 0.97, n, 0.96, 0.98)
        for population, n in (("all", 2_000), ("seen", 1_200), ("unseen", 800))
    ]
    rows += [
        ("time_cut", "als_adjusted", "all", "rmse", 0.95, 2_000, 0.94, 0.955),
        ("time_cut", "upper_bound", "all", "rmse", 0.0, 2_000, 0.0, 0.0),
        ("time_cut", "als_unadjusted", "all", "top5pct_rating_published", 3.68, 9_000, 3.66, 3.70),
        ("time_cut", "als_adjusted", "all", "top5pct_rating_published", 4.33, 1_000, 4.31, 4.35),
        ("time_cut", "als_adjusted", "all", "prediction_coverage", 0.985, 2_000, 0.985, 0.985),
        ("latest_rating", "segment_mean", "train_users", "r2", 0.226, 70, 0.2, 0.25),
        ("latest_rating", "segment_mean", "test_users", "r2", 0.210, 30, 0.19, 0.23),
        ("latest_rating", "item_mean", "test_users", "r2", 0.249, 30, 0.22, 0.27),
        ("backtest", "night_model", "night_owls", "surprise_5", 0.1234, 17, 0.1, 0.15),
    ]
    return pl.DataFrame(rows, schema=SCORES_SCHEMA, orient="row")


def _tables(n_users: int = 60, n_items: int = 30, n_segments: int = 4) -> dict[str, pl.DataFrame]:
    """A small whole: two clusters told apart by age and gender, users of many kinds, one reason of rejection."""
    generator = np.random.default_rng(3)
    ratings = _ratings([int(n) for n in generator.integers(5, n_items, n_users)])
    cluster = np.arange(n_users) % 2
    users = pl.DataFrame(
        {
            "user": np.arange(n_users, dtype=np.int32),
            "user_id": [f"u{i}" for i in range(n_users)],
            "age": 20 + 30 * cluster + np.arange(n_users) % 7,
            "gender": ["F" if i % 2 else "M" for i in range(n_users)],
            "zip_code": [f"{i % 3}{i:04d}" for i in range(n_users)],
        }
    ).with_columns(pl.when(pl.col("user") >= 2).then(pl.col("age", "gender", "zip_code")))
    affinity = generator.dirichlet(np.full(n_segments, 0.3), n_users)
    segments = _user_segments(affinity.tolist())
    return {
        "ratings": ratings,
        "users": users,
        "items": _items(n_items),
        "rejected_rows": pl.DataFrame(
            {
                "file": ["r.csv"] * 3,
                "line": [1, 2, 3],
                "reason": ["<b>bad</b>", "<b>bad</b>", "short"],
                "text": [""] * 3,
            }
        ),
        "user_features": pl.DataFrame(
            {
                "user": np.arange(n_users, dtype=np.int32),
                "noise": generator.normal(size=n_users),
                "age": cluster * 2.0 - 1 + generator.normal(size=n_users) / 10,
                "gender=F": cluster.astype(float),
                "gender=M": 1.0 - cluster,
            }
        ),
        "cluster_sweep": pl.DataFrame(
            {"k": [1, 2, 3], "sse": [90.0, 40.0, 30.0], "silhouette": [None, 0.3, 0.4]},
            schema_overrides={"k": pl.Int32},
        ),
        "user_clusters": pl.DataFrame({"user": np.arange(n_users), "cluster": cluster}).cast(pl.Int32),
        "segment_items": _segment_items(n_segments, n_items),
        "segment_shares": _segment_shares([1 / n_segments] * n_segments, [None] * n_segments),
        "user_segments": segments,
        "segment_ratings": ratings.join(segments.select("user", "segment"), on="user")
        .group_by("segment", "item")
        .agg(count=pl.len().cast(pl.Int32), mean=pl.col("rating").cast(pl.Float64).mean())
        .sort("segment", "item"),
    }


def _inputs(tables: dict[str, pl.DataFrame], scores: pl.DataFrame, **other: object) -> ReportInputs:
    rest: dict = {
        "settings": {"engine": "polars", "als": {"rank": 10, "deep": {"flag": True, "none": None}}},
        "versions": {"polars": "2.1.0"},
        "generated": dt.datetime(2026, 1, 2, 3, 4, tzinfo=dt.UTC),
    } | other
    return ReportInputs(**{name: lazy(table) for name, table in tables.items()}, evaluation_scores=scores, **rest)


@pytest.fixture(scope="module")
def page() -> str:
    """The report of the small whole."""
    return render_page(_inputs(_tables(), _scores(), title="Report <i>of</i> tests"))


def _rows(chart: theme.Spec) -> Iterator[dict]:
    """Every row of data that a chart draws from."""
    return (row for rows in chart["datasets"].values() for row in rows)


def _column(chart: theme.Spec, name: str) -> list:
    return [row[name] for row in _rows(chart) if name in row]


class _Page(HTMLParser):
    """What a page contains: every tag with its attributes, the text, and the text of style elements."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.style = ""
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag):
        self._inside = "" if tag == self._inside else self._inside

    def handle_data(self, data):
        if self._inside == "script":
            return
        if self._inside == "style":
            self.style += data
        else:
            self.text += data


# Ratings per user


def test_histogram_counts_every_user_once_and_marks_mean_and_median():
    """A histogram that loses the heaviest users would hide the long tail that the median rule of the fill is for."""
    per_user = [1, 1, 2, 3, 20, 300]
    chart = charts.ratings_per_user(lazy(_ratings(per_user)))
    assert sum(_column(chart, "users")) == len(per_user)
    assert {"mean 54.5", "median 2.5"} <= set(_column(chart, "label"))


@settings(max_examples=20)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_histogram_has_a_bin_for_any_numbers_of_ratings(per_user):
    """A data set where all users have equally many ratings must get its picture too."""
    chart = charts.ratings_per_user(lazy(_ratings(per_user)))
    assert sum(_column(chart, "users")) == len(per_user)


# Clusters


def test_sweep_tells_the_used_k_and_the_silhouettes_choice():
    """A reader could not see that the K in use is not the one the silhouette would choose."""
    chart = charts.cluster_sweep(lazy(_tables()["cluster_sweep"]), 2)
    subtitle = chart["title"]["subtitle"][0]
    assert "K = 2 is used" in subtitle
    assert "choose K = 3" in subtitle


def test_sweep_without_any_silhouette_is_still_drawn():
    """Three users have no silhouette for any K; the run must not end there."""
    sweep = pl.DataFrame({"k": [1], "sse": [0.0], "silhouette": [None]}, schema_overrides={"silhouette": pl.Float64})
    assert "no K has a silhouette" in charts.to_svg(charts.cluster_sweep(lazy(sweep), 1))


TRIED_K = {5: 0.982, 2: 0.985, 10: 0.981, 40: None}


def _trials(tried: dict[int, float | None] | None = None) -> pl.DataFrame:
    """The table study_trials of the search over K, and another search on the same split."""
    rows = [
        ("time_cut", "clusters", f"k{k}", "als_adjusted", json.dumps({"clusters.k": k}), "unseen", value)
        for k, value in (TRIED_K if tried is None else tried).items()
    ] + [("time_cut", "als", "a", "als_adjusted", json.dumps({"als.rank": 7}), "all", 0.5)]
    names = ["validation_split", "search", "trial", "model", "candidate", "population", "value"]
    trials = pl.DataFrame(rows, schema=names, orient="row")
    rest = {"metric": "rmse", "is_default": False, "is_chosen": False, "seconds": 1.0, "refusal": None}
    return trials.with_columns(**{name: pl.lit(value) for name, value in rest.items()})


def test_cold_error_draws_the_k_that_were_tried_and_tells_the_three_choices():
    """Somebody would choose K by the silhouette, though what it is for was measured."""
    chart = charts.cold_error(_trials(), lazy(_tables()["cluster_sweep"]), 5)
    drawn = [(row["k"], row["rmse"]) for row in _rows(chart) if "rmse" in row]
    assert set(drawn) == {(2, 0.985), (5, 0.982), (10, 0.981)}
    told = chart["title"]["subtitle"][0]
    assert [int(k) for k in re.findall(r"K = (\d+)", told)] == [3, 10, 5]


@pytest.mark.parametrize("trials", [pl.DataFrame(), _trials({}), _trials({5: 0.98, 40: None})])
def test_cold_error_is_drawn_only_where_a_study_compared(trials):
    """The report would fail, or show a point as if it were a choice."""
    assert charts.cold_error(trials, lazy(_tables()["cluster_sweep"]), 5) is None


def test_page_shows_the_cold_error_beside_the_silhouette_after_a_study(page):
    """What a study found of K would stand in a table that nobody opens."""
    empty = {name: pl.DataFrame(schema=_schema(table)) for name, table in STUDY_TABLES.items()}
    study = StudyTables(**empty | {"trials": _trials()})
    with_study = render_page(_inputs(_tables(), _scores(), study=study))
    title = "RMSE of users without a rating, by K"
    assert title in with_study.split('id="clusters"')[1].split('id="segments"')[0]
    assert title not in page


def test_pairs_show_the_features_that_separate_the_clusters():
    """Pairs of noise would make good clusters look like none."""
    tables = _tables()
    names = separating_features(lazy(tables["user_features"]), lazy(tables["user_clusters"]))
    assert names == ["gender=F", "age", "noise"]


def test_pairs_are_a_bounded_sample_that_does_not_depend_on_row_order():
    """The picture of a million users must stay small, and be the same at every run."""
    n = 3 * PAIRED_USERS
    generator = np.random.default_rng(0)
    features = pl.DataFrame({"user": np.arange(n), "a": generator.normal(size=n), "b": generator.normal(size=n)})
    clusters = pl.DataFrame({"user": np.arange(n), "cluster": np.arange(n) % 3})
    chart = charts.cluster_pairs(lazy(features), lazy(clusters))
    shuffled = charts.cluster_pairs(lazy(features.sample(n, shuffle=True, seed=1)), lazy(clusters.reverse()))
    assert len(list(_rows(chart))) == PAIRED_USERS
    assert chart["datasets"] == shuffled["datasets"]


@pytest.mark.parametrize("columns", [[], ["age"]])
def test_pairs_without_two_features_say_so(columns):
    """Users without demographics must lead to a sentence, not to an error."""
    tables = _tables()
    chart = charts.cluster_pairs(lazy(tables["user_features"].select("user", *columns)), lazy(tables["user_clusters"]))
    assert "no pair to show" in charts.to_svg(chart)


def test_profiles_give_sizes_means_and_shares_in_original_attributes():
    """Profiles in scaled features would say nothing to a person; unknown values must not count as a category."""
    tables = _tables()
    chart = charts.cluster_profiles(lazy(tables["users"]), lazy(tables["user_clusters"]))
    cells = {(row["cluster"], row["row"]): row["text"] for row in _rows(chart)}
    known = tables["users"].filter(pl.col("user") >= 2).with_columns(cluster=pl.col("user") % 2)
    mean = known.filter(cluster=1)["age"].mean()
    assert cells[1, "mean age"] == f"{mean:.1f}"
    assert cells[1, "gender: F"] == "100 %"
    assert cells[0, "gender: F"] == "0 %"
    assert {row for _, row in cells if row.startswith("zip_code")} == {"zip_code: 0", "zip_code: 1", "zip_code: 2"}
    assert set(_column(chart, "heading")) == {"0|30", "1|30"}


# Segments


def test_users_per_segment_count_train_and_test_users():
    """Counts of train users only would make segments look smaller than they are."""
    tables = _tables()
    chart = charts.users_per_segment(lazy(tables["user_segments"]))
    counted = sum(row["users"] for row in _rows(chart) if "partition" in row)
    assert counted == len(tables["user_segments"])


def test_shares_show_every_segment_beside_its_partner_and_what_has_moved():
    """A segment that grew, came or went would not be seen, or be held against another one."""
    table = _segment_shares([0.3, 0.2, 0.5, None], [0.45, 0.3, None, 0.25])
    chart = charts.segment_shares(lazy(table))
    texts = {row["label"]: row["text"] for row in _rows(chart)}
    assert texts["2  Item 2 · B"] == "50.0\N{NO-BREAK SPACE}%, new"
    assert texts["(was 3) Item 3 · A"] == "gone"
    assert texts["1  Item 1 · B"] == "20.0\N{NO-BREAK SPACE}% (−10.0)"
    moved, most, *_ = chart["title"]["subtitle"]
    assert moved.startswith("50.0\N{NO-BREAK SPACE}% of the users' affinity")
    assert "segment 2, Item 2 · B (+50.0 points)" in most


def test_shares_of_a_first_refresh_say_that_there_is_nothing_before():
    """The first segments would look as if all of them were new."""
    chart = charts.segment_shares(lazy(_tables()["segment_shares"]))
    assert "nothing to compare" in chart["title"]["subtitle"][0]
    assert set(_column(chart, "text")) == {"25.0\N{NO-BREAK SPACE}%"}


def test_shares_of_hundreds_of_segments_are_a_picture_of_the_largest():
    """The picture of many segments would be too large to store."""
    n = 300
    shares = (np.arange(1, n + 1) / (n * (n + 1) / 2)).tolist()
    chart = charts.segment_shares(lazy(_segment_shares(shares, shares[::-1])))
    assert len(set(_column(chart, "label"))) == SHOWN
    assert f"The {SHOWN} largest of 300." in chart["title"]["subtitle"]
    assert len(charts.to_png(chart)) <= theme.MAX_PNG_BYTES


def _apart() -> tuple[pl.DataFrame, pl.DataFrame]:
    """users and user_segments: segment 0 holds women of about 20, 1 men of about 40; pets and shoes tell nothing."""
    user = np.arange(400)
    users = pl.DataFrame(
        {
            "user": user.astype(np.int32),
            "user_id": user.astype(str),
            "gender": np.where(user % 2, "M", "F"),
            "age": 20.0 + 20 * (user % 2) + user % 3,
            "pet": np.where(user // 2 % 2, "cat", "dog"),
            "shoes": 40.0 + user // 2 % 5,
        }
    )
    return users, _user_segments([[0.9, 0.1] if i % 2 == 0 else [0.2, 0.8] for i in user])


def test_cards_tell_what_sets_a_segments_users_apart():
    """A card would not say who is in the segment, or call chance a trait."""
    users, segments = _apart()
    first, second = segment_cards(lazy(_segment_items(2, 25)), lazy(segments), lazy(users))
    assert (first.users, first.share) == (200, 0.5)
    known = {(trait["row"], trait["text"], trait["everybody"]) for trait in first.traits}
    assert known == {("gender: F", "100 %", "50 %"), ("mean age", "21.0", "31.0")}
    assert {trait["row"] for trait in second.traits} == {"gender: M", "mean age"}


def test_a_few_users_that_differ_are_no_trait():
    """Two women who like the same items would make a segment of women."""
    users, segments = _apart()
    few = segments.with_columns(segment=pl.when(pl.col("user").is_in([0, 2])).then(0).otherwise(1).cast(pl.Int32))
    first, _ = segment_cards(lazy(_segment_items(2, 25)), lazy(few), lazy(users))
    assert (first.users, first.traits) == (2, [])


def test_cards_without_demographics_have_items_and_no_traits():
    """Data of ratings alone would get no cards."""
    users, segments = _apart()
    cards = segment_cards(lazy(_segment_items(3, 25)), lazy(segments), lazy(users.select("user", "user_id")))
    assert [(card.segment, card.users, card.traits) for card in cards] == [(0, 200, []), (1, 200, []), (2, 0, [])]
    assert cards[1].by_probability["title"][0] == "Item 1"
    assert cards[1].by_lift["title"][0] == NASTY_TITLE


def test_segment_sheets_show_20_items_of_every_segment_in_both_orders():
    """A segment or an item would be missing from the pictures, or a list be in another order than it says."""
    users, segments = _apart()
    sheets = charts.segment_sheets(lazy(_segment_items(8, 25)), lazy(segments), lazy(users))
    spec = [card for sheet in sheets for card in sheet["vconcat"]]
    assert [card["title"]["text"].split(":")[0] for card in spec] == [f"Segment {segment}" for segment in range(8)]
    for rank in ("rank", "lift_rank"):
        drawn = [rows for sheet in sheets for rows in sheet["datasets"].values() if rank in rows[0]]
        assert len(drawn) == 8
        assert all([row[rank] for row in rows] == list(range(1, 21)) for rows in drawn)
    assert "gender:\u00a0F,\u00a0100\u00a0%\u00a0(50\u00a0%)" in spec[0]["title"]["subtitle"][0]


def test_sheets_are_drawn_of_the_largest_segments_only():
    """Drawing the cards of a hundred segments would take longer than fitting them."""
    users, segments = _apart()
    sheets = charts.segment_sheets(lazy(_segment_items(20, 5)), lazy(segments), lazy(users))
    spec = [card["title"]["text"].split(":")[0] for sheet in sheets for card in sheet["vconcat"]]
    inhabited = sorted(segments["segment"].unique())
    assert len(spec) == 12
    assert [f"Segment {segment}" for segment in inhabited] == spec[: len(inhabited)]


def test_rating_by_segment_shows_the_most_rated_items_with_counts_and_their_weighted_mean():
    """A mean of means would let a segment of two users count as much as one of a thousand."""
    table = pl.DataFrame(
        {
            "segment": [0, 1, 0, 1],
            "item": [5, 5, 2, 2],
            "count": [90, 10, 1, 1],
            "mean": [4.0, 2.0, 1.0, 5.0],
        },
        schema_overrides={"segment": pl.Int32, "item": pl.Int32, "count": pl.Int32},
    )
    chart = charts.rating_by_segment(lazy(table), lazy(_items(6)))
    titles = [row["title"]["text"] for row in chart["vconcat"]]
    assert titles == ["Item 5  (3.80)", "Item 2  (3.00)"]
    assert {row["count"] for row in _rows(chart) if row["item"] == 5} == {90, 10}


def test_rating_by_segment_shows_the_items_asked_for():
    """Somebody who asks for an item would be shown another one."""
    tables = _tables()
    chart = charts.rating_by_segment(lazy(tables["segment_ratings"]), lazy(tables["items"]), [4])
    assert {row["item"] for row in _rows(chart)} == {4}


def test_example_users_are_the_flattest_the_nearest_above_half_and_the_first():
    """The three users would not be those of the case study."""
    affinities = [[0.7, 0.2, 0.1], [0.9, 0.05, 0.05], [0.72, 0.18, 0.1], [0.34, 0.33, 0.33], [0.74, 0.21, 0.05]]
    users = pl.DataFrame({"user": range(5), "user_id": list("abcde")}, schema_overrides={"user": pl.Int32})
    chart = charts.example_affinities(lazy(_user_segments(affinities)), lazy(users))
    titles = [panel["title"] for panel in chart["hconcat"]]
    assert [title["text"] for title in titles] == ["User d", "User a", "User a"]
    assert [title["subtitle"][0] for title in titles] == ["flattest", "nearest above a spread of 0.5", "first user"]


def test_example_users_without_a_clear_one_are_two():
    """Data in which all users are flat must not end the run."""
    chart = charts.example_affinities(lazy(_user_segments([[0.5, 0.5], [0.6, 0.4]])))
    titles = [panel["title"]["text"] for panel in chart["hconcat"]]
    assert titles == ["User index 0", "User index 0"]


# Scores


def _panels(chart: theme.Spec) -> dict[str, list[list[dict]]]:
    """By population: the rows of each layer."""
    return {panel["title"]["text"]: [layer["data"]["values"] for layer in panel["layer"]] for panel in chart["vconcat"]}


def test_scores_draw_each_population_with_its_bounds_apart_from_the_models():
    """Random order and the upper bound would look like models, or a population would be missing."""
    panels = _panels(charts.scores(_scores(), "time_cut", "top5pct_rating"))
    assert list(panels) == ["All users", "Users seen in training", "Users not seen in training"]
    models = {row["model"]: row for row in panels["All users"][-1]}
    assert set(models) == {"item_mean", "als_adjusted", "selected"}
    assert models["item_mean"]["low"] == pytest.approx(4.26)
    bounds = {row["model"] for row in panels["All users"][0]}
    assert bounds == {"random", "upper_bound"}


def test_scores_put_the_best_model_first_whichever_way_is_better():
    """The worst model by RMSE would stand at the top."""
    orders = {
        metric: next(_y_orders(charts.scores(_scores(), "time_cut", metric))) for metric in ("rmse", "top5pct_rating")
    }
    assert orders["rmse"][0] == "ALS, cold users filled in"
    assert orders["top5pct_rating"][-1] == "Item mean"


def _y_orders(chart: theme.Spec) -> Iterator[list[str]]:
    for panel in chart["vconcat"]:
        yield next(
            layer["encoding"]["y"]["sort"] for layer in panel["layer"] if "sort" in layer["encoding"].get("y", {})
        )


def test_a_bound_far_away_is_named_without_squeezing_the_models_together():
    """Beside a perfect RMSE of 0 on the axis, nobody could tell 0.95 from 0.97."""
    chart = charts.scores(_scores(), "time_cut", "rmse")
    domain = chart["vconcat"][0]["layer"][-1]["encoding"]["x"]["scale"]["domain"]
    assert domain[0] > 0.9
    assert "← Perfect prediction 0.000" in charts.to_svg(chart)


def test_scores_take_lazy_frames_and_unknown_names():
    """A new protocol, model or metric would need a change of the report."""
    svg = charts.to_svg(charts.scores(lazy(_scores()), "backtest", "surprise_5"))
    assert all(text in svg for text in ("Night model", "Night owls", "Surprise 5", "0.123"))


def test_hand_written_charts_follow_the_schema():
    """A misspelt key would be ignored, and a line or a scale be missing from every score chart."""
    alt.VConcatChart.from_dict(charts.scores(_scores(), "time_cut", "rmse"))


def test_scores_that_do_not_exist_are_refused():
    """A mistyped metric would give an empty picture."""
    with pytest.raises(ValueError, match="no rsme under time_cut"):
        charts.scores(_scores(), "time_cut", "rsme")


# Files


def _size(png: bytes) -> tuple[int, int]:
    """Width and height of a PNG whose pixels are all there and not all alike."""
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.format == "PNG"
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 2
        return picture.size


def test_pictures_fit_into_the_event_log_and_stay_readable():
    """A picture above 200 kB slows the run history; one scaled below a pixel per unit cannot be read."""
    generator = np.random.default_rng(1)
    n, segments = 2_000, 25
    items = _segment_items(segments, 30).with_columns(title=pl.col("title") + " and The Long Way Home of a Sequel")
    features = pl.DataFrame({"user": range(n)} | {f"f{i}": generator.normal(size=n) for i in range(6)})
    clusters = pl.DataFrame({"user": np.arange(n), "cluster": np.arange(n) % 12})
    users = pl.DataFrame(
        {"user": np.arange(n), "user_id": [str(i) for i in range(n)]}
        | {f"attribute {i}": [f"value {j % 30}" for j in range(n)] for i in range(4)}
    )
    in_segments = _user_segments(np.eye(segments)[np.arange(n) % segments].tolist())
    rated = pl.DataFrame({"segment": np.repeat(np.arange(segments), 6), "item": np.tile(np.arange(6), segments)})
    rated = rated.with_columns(count=1_000 + pl.col("segment"), mean=3 + pl.col("segment") / 30)
    drawn = [
        charts.cluster_pairs(lazy(features), lazy(clusters)),
        charts.cluster_profiles(lazy(users), lazy(clusters)),
        charts.rating_by_segment(lazy(rated), lazy(_items(6))),
        charts.segment_sheets(lazy(items), lazy(in_segments), lazy(users))[0],
    ]
    for chart in drawn:
        png = charts.to_png(chart)
        assert len(png) <= theme.MAX_PNG_BYTES
        assert _size(png)[0] >= 600


def test_a_picture_that_cannot_fit_is_refused_with_a_way_out(monkeypatch):
    """A silent, unreadable or oversized picture would end up in the event log."""
    monkeypatch.setattr(theme, "MAX_PNG_BYTES", 1_000)
    with pytest.raises(ValueError, match="draw fewer rows of it, or use to_svg"):
        charts.to_png(charts.ratings_per_user(lazy(_ratings([1, 2, 3]))))


def test_svg_numbers_are_shortened_in_positions_only():
    """A score of 4.123 would be shown as 4.12, a different score."""
    scores = _scores().with_columns(value=pl.col("value") + 0.003)
    svg = charts.to_svg(charts.scores(scores, "time_cut", "top5pct_rating"))
    assert "4.333" in svg
    assert not re.search(r'transform="[^"]*\.\d{3}', svg)


# The words


def test_scores_of_ratings_that_are_all_alike_have_no_picture_of_r2(materialized_home):
    """Likes without dislikes would get no scores and no report, since no R² can be drawn."""
    scores = scan(AssetStore(materialized_home.assets).current(["evaluation_scores"])).to_native().collect()
    titles = {name for name in headline(scores) if not name.startswith(("time_cut", "top_n", "latest_rating"))}
    without = headline(scores.filter(pl.col("metric") != "r2"))
    assert titles - without.keys() == {"R² of the latest rating"}
    assert "rating of the top 5 %" in without


def _ranked(lead: tuple[float, float, float], *, users: int = 300, best: str = "ease") -> pl.DataFrame:
    """Planted: `blend` is selected and served, with this paired improvement over popularity; `best` scores higher."""
    value = {"random": 0.02, "popularity": 0.26, "blend": 0.30, "selected": 0.30, best: 0.305, "upper_bound": 1.0}
    rows = [("top_n", model, "all", "ndcg_10", v, users, v - 0.02, v + 0.02) for model, v in value.items()]
    rows += [
        ("top_n", model, "all", "ndcg_10_over_popularity", *_spread(lead, users)) for model in ("blend", "selected")
    ]
    rows += [("top_n", best, "all", "ndcg_10_over_selected", 0.005, users, -0.004, 0.014)]
    return pl.DataFrame(rows, schema=SCORES_SCHEMA, orient="row")


def _spread(lead: tuple[float, float, float], users: int) -> tuple[float, int, float, float]:
    value, low, high = lead
    return value, users, low, high


BLEND = Served("blend", dt.date(2026, 1, 2), score=0.29, popularity=0.25)


@pytest.mark.parametrize(
    ("lead", "tone"),
    [((0.04, 0.02, 0.06), "better"), ((0.04, -0.01, 0.09), "unsure"), ((-0.04, -0.06, -0.02), "worse")],
)
def test_first_verdict_is_the_paired_one(lead, tone):
    """A sure lead would be called chance, because the intervals of the two scores overlap."""
    lists, *_ = verdicts(_ranked(lead), BLEND)
    assert lists.tone == tone
    assert lists.question.startswith("What is served") and lists.answer.startswith("Blend of ranking models: ")
    told = " ".join((*lists.facts, *lists.details))
    assert f"{lead[0]:+.4f} (95 % interval".replace("-", "−") in told and "on the same 300 test users" in told
    assert "EASE scores 0.3050, which is better by 0.0050 (95 % interval −0.0040 to 0.0140), perhaps by chance." in told
    assert "EASE" in [bar.label for bar in lists.bars]
    assert ("by 15 %" in lists.answer) == (tone == "better")
    assert "Served since 2026-01-02; at its promotion it scored 0.2900, popularity 0.2500." in told


def test_verdict_does_not_lend_the_scores_of_other_settings_to_the_served_model():
    """The page would show the score of new settings for lists that are made with the old ones."""
    other = dataclasses.replace(BLEND, is_scored=False)
    lists, *_ = verdicts(_ranked((0.04, 0.02, 0.06)), other)
    assert (lists.tone, lists.bars) == ("none", ())
    assert "with settings that are not scored here" in lists.answer
    implicit = dataclasses.replace(other, model="implicit_als")
    new_users = verdicts(_ranked((0.04, 0.02, 0.06)), implicit)[-1]
    assert (new_users.tone, new_users.bars) == ("none", ())
    assert new_users.answer.startswith("They get what users of the same cluster like")


def test_the_headline_compares_the_served_model_and_not_the_selected_one():
    """After a rollback the first sentence would call a model no sure winner that surely beats the served lists."""
    lists, *_ = verdicts(_ranked((0.04, 0.02, 0.06)), BLEND)
    assert lists.answer.endswith(" EASE may be as good.")
    elsewhere = pl.when(pl.col("model") == "selected").then(pl.col("value") + 0.004).otherwise("value")
    lists, *_ = verdicts(_ranked((0.04, 0.02, 0.06)).with_columns(value=elsewhere), BLEND)
    assert "may be as good" not in lists.answer
    assert "EASE scores 0.3050, which is better. " in " ".join(lists.facts)


def test_the_best_model_is_told_with_the_number_of_models_behind_it():
    """The reader could not tell the best of twenty models from the better of two."""
    worse = pl.when(pl.col("model") == "ease").then(0.29).otherwise("value")
    scores = _ranked((0.04, 0.02, 0.06)).with_columns(value=worse)
    told = "None of the 2 other models scores better; the next is EASE, 0.2900."
    assert told in verdicts(scores, BLEND)[0].facts
    assert told in verdicts(scores, None, selected={"top_n": "blend"})[0].facts
    tied = scores.with_columns(value=pl.when(pl.col("model") == "ease").then(0.3).otherwise("value"))
    assert "None of the 2 other models scores better; EASE scores the same." in verdicts(tied, BLEND)[0].facts
    alone = verdicts(scores.filter(pl.col("model") != "ease"), BLEND)[0]
    assert "The other model is not better; the next is Popularity, 0.2600." in alone.facts


def test_a_first_promotion_without_a_score_is_no_rollback(tmp_path):
    """The first screen would speak of a rollback that nobody made."""
    record, store = Promotions(tmp_path / "promotions"), AssetStore(tmp_path / "assets")
    parameters = Settings().model_dump()
    blend = Configuration.of(parameters, rating_model="item_mean", ranking_model="blend")
    told = {}
    for verdict in ("promoted", "rolled back"):
        record.add(blend, Decision(verdict, "because"))
        served = _served(record, store, parameters)
        lists, *_ = verdicts(_ranked((0.04, 0.02, 0.06)), served)
        told[verdict] = " ".join((*lists.facts, *lists.details))
    assert "not scored at its promotion" in told["promoted"] and "rollback" not in told["promoted"]
    assert "A rollback brought it back" in told["rolled back"]


def test_the_selected_model_is_marked_although_another_scores_alike():
    """On a dozen test users, the page would call a model selected that nobody chose, and describe it."""
    rows = [
        ("top_n", model, population, "ndcg_10", 0.0, 12, 0.0, 0.0)
        for model in ("als_adjusted", "blend", "ease", "selected", "upper_bound")
        for population in ("all", "seen")
    ]
    scores = pl.DataFrame(rows, schema=SCORES_SCHEMA, orient="row")
    for chosen in ("blend", "ease"):
        (made,) = score_tables(scores, "top_n", selected={"top_n": chosen})
        assert [row.model for row in made.rows if row.is_selected] == [chosen]
        lists, *_ = verdicts(scores, None, selected={"top_n": chosen})
        assert labels.meaning(chosen) in (*lists.facts, *lists.details)
    page = _Page(render_page(_inputs(_tables(), scores, selected={"top_n": "ease"}))).text
    assert re.search(r"EASE\s+selected\s*ease", page)


def test_bars_stand_where_their_scores_are():
    """The picture would put popularity beyond the served model."""
    lists, *_ = verdicts(_ranked((0.04, 0.02, 0.06)), BLEND)
    places = {bar.label: bar.at for bar in lists.bars}
    assert places["Random order"] < places["Popularity"] < places["Blend of ranking models"] < 1
    assert all(0 <= bar.low <= bar.at <= bar.high <= 1 for bar in lists.bars)


def test_sentences_about_models_are_about_models_that_there_are():
    """After a model was renamed, the first screen would no longer say what it does or what it gives to new users."""
    names = {entry.name for entry in ENTRIES}
    assert {*labels._MEANINGS, *verdicts_module._FOR_NEW_USERS} <= names
    assert {entry.name for entry in ENTRIES if entry.task == "top_n"} <= {*labels._MEANINGS}


def test_next_steps_begin_with_what_is_urgent():
    """Somebody would study settings while worse lists than popularity are shown."""
    worse = next_steps(_ranked((-0.04, -0.06, -0.02)), BLEND, studied=False)
    assert "recsys-assets rollback" in worse[0]
    few = next_steps(_ranked((0.04, -0.1, 0.2), users=12), BLEND, studied=True)
    assert few == ["Bring more ratings: 12 scored users cannot tell which model is best."]


def test_the_report_calls_items_what_people_call_them():
    """A bookshop's report would speak of items, or of movies."""
    books = _Page(render_page(_inputs(_tables(), _scores(), item_noun="books"))).text
    assert "most probable books of each segment" in books and "rare books" in books and "Book mean" in books
    assert not re.search(r"(?<!\w)[Ii]tems?(?!\w)", books.partition("Settings")[0])


def test_a_group_of_few_users_has_no_best_model():
    """Five users would decide who wins for a group."""
    page = render_page(_inputs(_tables(), _ranked((0.04, 0.02, 0.06), users=49)))
    assert "too few users" in _Page(page).text
    assert 'number best"' not in page
    assert 'number best"' in render_page(_inputs(_tables(), _ranked((0.04, 0.02, 0.06), users=50)))


def test_winner_is_told_with_its_paired_leads():
    """Readers with five minutes would take home the wrong winner, or a lead that is chance."""
    standings = contest(_ranked((0.04, 0.02, 0.06)), "top_n", "ndcg_10", "all")
    assert standings.winner == "EASE"
    assert standings.over_selected == ("+0.0050", "−0.0040 to 0.0140")
    assert contest(_scores(), "time_cut", "top5pct_rating", "seen").winner == "ALS, cold users filled in"
    assert contest(_scores(), "time_cut", "rmse", "all").winner == "ALS, cold users filled in"


def test_case_studies_numbers_are_taken_apart():
    """The published rise would be taken for what the fill achieves, though an item mean makes most of it."""
    case_a, case_b = CaseStudies(_scores()).statements()
    assert "(MovieLens 1M) reported 3.6498 without and 4.2926 with" in case_a
    # (4.28 - 3.68) / (4.33 - 3.68) of the rise; 800 of 2,000 test ratings.
    assert "92\u00a0% of the rise" in case_a
    assert "40\u00a0% of the test ratings" in case_a
    assert "0.1265" in case_b
    assert "the segment mean is not better" in case_b


def test_case_studies_numbers_are_those_of_the_command(materialized_home):
    """A reader who checks the comparison with the case studies by `scores` would find other digits."""
    printed = pl.DataFrame(json.loads(invoke("scores", "--json", "--home", materialized_home.path).stdout))
    page = render_page(_inputs(_tables(), table(materialized_home, "evaluation_scores"), is_movielens=True))
    said = _Page(page).text.partition("Published values")[0]
    for each in PUBLISHED:
        row = {"protocol": each.protocol, "model": each.model, "population": each.population, "metric": each.metric}
        assert f"{printed.filter(**row)['value'].item():.4f}" in said


scores_of_models = st.dictionaries(
    st.sampled_from([*labels.MODELS, "another"]), st.floats(-5, 5, allow_nan=False), min_size=1
)


@given(scores_of_models, st.sampled_from(["rmse", "top5pct_rating"]))
def test_no_model_beats_the_winner(values, metric):
    """A winner would be announced that another model beats, or a bound would win."""
    scores = pl.DataFrame(
        [("time_cut", model, "all", metric, value, 1, value, value) for model, value in values.items()],
        schema=SCORES_SCHEMA,
        orient="row",
    )
    result = contest(scores, "time_cut", metric, "all")
    sign = -1 if metric == "rmse" else 1
    models = {model: value for model, value in values.items() if model not in labels.BOUNDS}
    assert {entry.model for entry in result.models} == set(models)
    if models:
        best = max(sign * value for value in models.values())
        assert all(abs(sign * entry.value - best) < 1e-12 for entry in result.winners)


def test_summary_counts_what_is_there_and_what_is_missing():
    """The data section would contradict the tables."""
    tables = _tables()
    summary = data_summary(*(lazy(tables[name]) for name in ("ratings", "users", "items", "rejected_rows")))
    facts = {fact.label: fact for fact in summary.facts}
    n = len(tables["ratings"])
    assert facts["ratings"].value == f"{n:,}"
    assert facts["scale"].value == "1 to 5"
    assert facts["span"].value == "2000"
    assert facts["density"].value == f"{100 * n / (60 * 30):.2f}\u00a0%"
    assert facts["users without demographics"].value == "2"
    assert summary.rejections == (("<b>bad</b>", 2), ("short", 1))


# The page


def test_page_loads_nothing(page):
    """Opened on a train, or from an archive in ten years, a part of the report would be missing."""
    parsed = _Page(page)
    names = {tag for tag, _ in parsed.tags}
    assert not names & {"link", "iframe", "object", "embed", "base", "audio", "video"}
    assert [attributes for tag, attributes in parsed.tags if tag == "script"] == [{}]
    loaded = [
        value
        for _, attributes in parsed.tags
        for name, value in attributes.items()
        if name in ("src", "srcset", "href", "xlink:href", "data", "poster", "action") and value
    ]
    assert all(value.startswith(("#", "data:")) for value in loaded)
    styles = parsed.style + "".join(attributes.get("style") or "" for _, attributes in parsed.tags)
    assert "@import" not in styles
    assert not re.search(r"url\((?!#|'#|\"#)", page)


def test_page_shows_every_score(page):
    """A score of a protocol, model or metric that the report does not know would vanish."""
    scores = _scores()
    text = _Page(page).text
    for row in scores.iter_rows(named=True):
        assert row["model"] in text
        assert row["protocol"] in text
        assert row["metric"] in text
        assert labels.metric(row["metric"]).shown(row["value"]) in text
    # `selected` is a mark on the model that it repeats.
    repeated = scores.filter(protocol="time_cut", metric="top5pct_rating", model="selected")
    assert len(re.findall(r"<small>n [\d,]+</small>", page)) == len(scores) - len(repeated)
    assert page.count("<mark>selected</mark>") == 1
    links = re.findall(r'href="data:text/csv;base64,([^"]+)" download="([^"]+)"', page)
    files = {name: pl.read_csv(io.BytesIO(base64.b64decode(content))) for content, name in links}
    assert sum(map(len, files.values())) == len(scores)
    assert files["time_cut-rmse.csv"].filter(model="als_adjusted")["value"].to_list() == [0.95]


def test_page_of_movielens_alone_shows_published_values_with_the_data_they_are_of(page):
    """Numbers from MovieLens 1M would be read as numbers of this data."""
    text = _Page(render_page(_inputs(_tables(), _scores(), is_movielens=True))).text
    assert all(f"{published.value:.4f}" in text for published in PUBLISHED)
    assert all(published.study.data in text for published in PUBLISHED)
    assert "not the data of this report" in text
    assert "Case study" not in _Page(page).text


def test_page_escapes_what_the_data_says(page):
    """An item title, a rejected line's reason or a page title could run code in the reader's browser."""
    assert page.count("<script") == 1
    policy = re.search(r'content="default-src \'none\'; [^"]*script-src \'sha256-([^\']+)\'"', page)
    script = page.split("<script>")[1].split("</script>")[0]
    assert policy and base64.b64decode(policy[1]) == hashlib.sha256(script.encode()).digest()
    assert "&lt;script&gt;alert(" in page
    assert "<b>bad" not in page
    assert "<i>of</i>" not in page
    assert "\u202e" not in page


def test_page_has_all_pictures_cards_settings_and_versions(page):
    """A section of the report would be empty without anybody noticing."""
    parsed = _Page(page)
    pictures = [attributes["aria-label"] for tag, attributes in parsed.tags if tag == "svg"]
    expected = [
        "Ratings per user",
        "How many clusters?",
        "The clusters in pairs of features",
        "Who is in each cluster?",
        "Users per segment",
        "How large each segment is, now and before",
        "The same item, segment by segment",
        "Three users, three mixtures of taste",
        "Rating of the top 5 %: higher is better",
    ]
    assert set(expected) <= set(pictures)
    assert [attributes.get("class") for tag, attributes in parsed.tags].count("card") == 4
    assert "deep.flag" in parsed.text
    assert "not set" in parsed.text
    assert "2.1.0" in parsed.text
    assert "2026-01-02 03:04 UTC" in parsed.text


def test_page_shows_on_each_card_both_lists_and_who_is_in_the_segment():
    """Readers would see what everybody watches, and not whom the segment is made of."""
    tables = _tables()
    women = tables["user_segments"].select(
        gender=pl.when(pl.col("segment") == 0).then(pl.lit("F")).otherwise(pl.lit("M"))
    )
    tables["users"] = tables["users"].with_columns(women)
    first = render_page(_inputs(tables, _scores())).split('<article class="card">')[1]
    text = _Page(first).text
    assert first.count("<ol>") == 2
    assert first.count("<li style=") == 40
    assert "50.0\u00a0%" in text and "15.0\u00a0×" in text
    assert "gender: F" in text and "100 %" in text


def test_ids_are_unique_on_the_page(page):
    """One picture's clipping would be applied to another, and cut it off."""
    ids = [attributes["id"] for _, attributes in _Page(page).tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_page_of_next_to_nothing_says_so():
    """Three users without demographics, rejected rows or scores must get a report, not an error."""
    tables = _tables(n_users=3, n_items=8, n_segments=2)
    tables["users"] = tables["users"].select("user", "user_id")
    tables["user_features"] = tables["user_features"].select("user")
    tables["user_clusters"] = tables["user_clusters"].with_columns(cluster=pl.lit(0, pl.Int32))
    tables["cluster_sweep"] = tables["cluster_sweep"].head(1)
    tables["rejected_rows"] = tables["rejected_rows"].clear()
    text = _Page(render_page(_inputs(tables, _scores().clear()))).text
    assert "The users have no attributes, so one cluster holds all of them." in text
    assert "No row was rejected." in text
    assert "There are no scores yet." in text


def test_page_of_empty_tables_is_still_a_page():
    """A home in which nothing has arrived yet must not make the report fail."""
    tables = {name: table.clear() for name, table in _tables().items()}
    assert "There are no ratings." in render_page(_inputs(tables, _scores().clear()))


def test_page_of_many_segments_stays_small():
    """A report of tens of megabytes opens slowly and cannot be sent to anybody."""
    tables = _tables(n_users=1_500, n_items=300, n_segments=150)
    html = render_page(_inputs(tables, _scores()))
    assert len(html.encode()) < 5_000_000
    sizes = tables["user_segments"].group_by("segment").len().filter(pl.col("len") >= 15)
    assert 0 < html.count('class="card"') == min(len(sizes), MAX_CARDS)


@pytest.mark.slow
@pytest.mark.spark
def test_report_from_spark_tables_is_the_report_from_polars_tables(tmp_path):
    """With engine = "spark" the report would fail, or tell other numbers."""
    spark = spark_resource(
        SparkSettings(master="local[2]", driver_memory="1g", shuffle_partitions=1), tmp_path
    ).spark_session
    tables = _tables()

    def on_spark(name: str):
        tables[name].write_parquet(tmp_path / name)
        return nw.from_native(spark.read.parquet(str(tmp_path / name)))

    local = _inputs(tables, _scores())
    distributed = dataclasses.replace(local, **{name: on_spark(name) for name in tables})
    assert render_page(distributed) == render_page(local)


def _contrast(colour: str, page: str) -> float:
    """Contrast of two colours, as WCAG 2 defines it."""

    def luminance(of: str) -> float:
        parts = [int(of[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    darker, lighter = sorted(map(luminance, (colour, page)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_colours_of_charts_stand_out_from_the_page(mode):
    """Points and intervals of a model can hardly be seen, in one of the two modes."""
    css = (Path(theme.__file__).parent / "report.css").read_text()
    light, _, dark = css.partition("@media (prefers-color-scheme: dark)")
    page = re.findall(r"--(?:paper|panel): (#\w{6})", light if mode == "light" else dark)[:2]
    replaced = dict(re.findall(r'svg \[fill="(#\w{6})"\] { fill: (#\w{6}); }', dark)) if mode == "dark" else {}
    for colour in theme.CATEGORIES:
        shown = replaced.get(colour, colour)
        assert min(_contrast(shown, of) for of in page) >= 3, (colour, shown)


def test_no_interval_is_drawn_pale():
    """An interval at 40 % of its colour has less contrast than anybody with weak sight needs."""
    folder = Path(theme.__file__).parent
    pale = re.compile(r"mark_rule\([^)]*opacity=0\.")
    assert [path.name for path in folder.glob("*.py") if pale.search(path.read_text())] == []
