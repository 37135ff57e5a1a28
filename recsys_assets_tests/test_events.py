import html
import math
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys_assets.cli.reader import Reader
from recsys_assets.home.layout import Home
from recsys_assets.home.settings import Settings
from recsys_assets.orchestration.build import build_defs
from recsys_assets.recommender.data.frames import lazy, to_polars
from recsys_assets.recommender.data.index import Index
from recsys_assets.recommender.data.kind import DataKind
from recsys_assets.recommender.data.preferences import Preference, relevant_from
from recsys_assets.recommender.features.matrices import user_item_matrix
from recsys_assets.recommender.ingest.describe import describe_source
from recsys_assets.recommender.ingest.errors import SourceError
from recsys_assets.recommender.ingest.merge import add_up_events, index_items, index_users
from recsys_assets.recommender.ingest.sources import read_source
from recsys_assets.recommender.ingest.validation import check_rejected
from recsys_assets.recommender.models import blend, demographic_popularity, ease
from recsys_assets.recommender.models.demographic_popularity import DemographicPopularity, DemographicPopularitySettings
from recsys_assets.recommender.ranking.rankings import top_n
from recsys_assets_tests.conftest import FAST_SETTINGS, invoke
from recsys_assets_tests.made_up import made_up

EVENTS = DataKind(feedback="events")


def plays(*, n_users: int = 120, n_items: int = 60, n_groups: int = 4, seed: int = 0) -> pl.DataFrame:
    """Plays of planted taste: most of a user's items are of its own group, id modulo the number of groups.

    How often an item is played spreads from 1 to 100,000, and says nothing about taste.
    """
    random = np.random.default_rng(seed)
    own = np.arange(n_users)[:, None] % n_groups == np.arange(n_items) % n_groups
    user, item = np.nonzero(random.random((n_users, n_items)) < np.where(own, 0.6, 0.08))
    count = np.floor(np.exp(random.uniform(0, np.log(1e5), len(user)))).astype(int)
    when = 1_500_000_000 + random.integers(0, 90 * 86_400, len(user))
    return pl.DataFrame({"user_id": user, "item_id": item, "weight": count, "timestamp": when})


def _read(text: str, folder: Path, **rules):
    path = folder / "events.csv"
    path.write_text(text)
    return read_source(path, scratch=folder / "scratch", **rules)


def _summed(raw: pl.DataFrame, damping: str = "none") -> pl.DataFrame:
    batches = [lazy(raw)]
    users = index_users([lazy(pl.DataFrame(schema={"user_id": pl.String}))], batches)
    facts = {"item_id": pl.String, "title": pl.String, "year": pl.Int32, "genres": pl.List(pl.String)}
    items = index_items([lazy(pl.DataFrame(schema=facts))], batches)
    return to_polars(add_up_events(batches, users, items, damping=damping)).sort("user", "item")


def _weights(rows: list[tuple[int, int, float]]) -> pl.DataFrame:
    table = pl.DataFrame(rows, schema={"user": pl.Int32, "item": pl.Int32, "rating": pl.Float32}, orient="row")
    return table.with_columns(n_events=pl.lit(1, pl.Int32))


def test_events_are_read_by_their_columns(tmp_path):
    """Most production data, clicks and plays, would be refused because they have no stars."""
    tables = _read("user_id,item_id,timestamp\na,m,978300760\na,m,978300761\n", tmp_path)
    assert tables.kind == EVENTS
    assert tables.ratings.collect()["rating"].to_list() == [1, 1]
    bare = _read("user_id,item_id,weight\na,m,2.5\n", tmp_path)
    assert bare.kind == DataKind(times=False, feedback="events")
    assert bare.ratings.collect()["rating"].to_list() == [2.5]


def test_a_column_of_unknown_meaning_is_not_taken_for_nothing(tmp_path):
    """Stars under another name would be read as events, and a 1 count as much as a 5."""
    text = "user_id,item_id,how much,timestamp\na,m,5,978300760\n"
    with pytest.raises(SourceError, match='feedback = "events"'):
        _read(text, tmp_path)
    assert _read(text, tmp_path, feedback="events").kind == EVENTS


def test_stars_can_be_read_as_events(tmp_path):
    """Nobody could see what the stars are worth beside who rated what."""
    text = "user_id,item_id,rating,timestamp\na,m,1,978300760\nb,m,5,978300761\n"
    assert _read(text, tmp_path).kind == DataKind()
    for rules in ({"ignore": ("rating",)}, {"feedback": "events"}):
        tables = _read(text, tmp_path, **rules)
        assert tables.kind == EVENTS
        assert tables.ratings.collect()["rating"].to_list() == [1, 1]


@pytest.mark.parametrize("column", ["rating", "score", "plays"])
def test_counts_among_ratings_are_read_as_events_with_the_line_that_the_hint_names(column, tmp_path):
    """Whoever brings play counts as ratings would not be told of events, or paste a line that changes nothing."""
    count = np.floor(np.exp(np.random.default_rng(0).normal(3, 2, 1_000))) + 1
    rows = "".join(f"u{row % 50},i{row},{count[row]:.0f},{978_300_760 + row}\n" for row in range(1_000))
    path = tmp_path / "counts.csv"
    path.write_text(f"user_id,item_id,{column},timestamp\n{rows}")
    columns = {"rating": "plays"} if column == "plays" else {}
    [hint] = describe_source(path, scratch=tmp_path / "scratch", columns=columns).hints
    assert ('in place of `rating = "plays"`' in hint) == (column == "plays")
    line = hint.split("put `")[1].split("` below [data.columns]")[0]
    found = describe_source(path, scratch=tmp_path / "scratch", columns=tomllib.loads(line))
    assert (found.kind, found.hints, found.rejected) == (EVENTS, [], 0)
    assert found.rating_scale == (count.min(), count.max())


def test_a_release_can_be_read_without_stars_and_times(tmp_path):
    """`ignore` would do nothing to MovieLens, and nobody be told."""
    folder = made_up(n_users=6, n_items=8).write(tmp_path / "small")
    tables = read_source(folder, scratch=tmp_path / "scratch", ignore=("rating", "timestamp"))
    assert tables.kind == DataKind(times=False, feedback="events")
    rows = tables.ratings.collect()
    assert rows["rating"].unique().to_list() == [1]
    assert rows["timestamp"].n_unique() == 1


def test_types_of_events_have_weights(tmp_path):
    """A purchase would count as much as a click, or a misspelt type as nothing, unseen."""
    text = "user_id,item_id,event,timestamp\na,m,click,978300760\na,m,buy,978300761\na,m,wish,978300762\n"
    weights = {"click": 1.0, "buy": 5.0}
    refusing = _read(text, tmp_path, event_weights=weights)
    assert refusing.ratings.collect()["rating"].to_list() == [1, 5]
    assert refusing.rejected.collect()["reason"].to_list() == ["event is not in [data.event_weights]"]
    counting = _read(text, tmp_path, event_weights=weights, other_events="count")
    assert counting.ratings.collect()["rating"].to_list() == [1, 5, 1]
    assert _read(text, tmp_path).ratings.collect().is_empty()


def test_a_weight_that_is_no_number_is_rejected(tmp_path):
    """A play count of `many` would count as one play."""
    tables = _read("user_id,item_id,weight,timestamp\na,m,many,978300760\nb,m,2,978300760\n", tmp_path)
    assert tables.rejected.collect()["reason"].to_list() == ["weight is not a number"]


def test_a_reason_names_the_column_as_the_file_does(tmp_path):
    """Whoever has a column `stars` or `plays` would look for a column `rating` that the file does not have."""
    columns = {"weight": "plays"}
    events = _read("user_id,item_id,plays,timestamp\na,m,many,978300760\n", tmp_path, columns=columns)
    assert events.rejected.collect()["reason"].to_list() == ["weight (column plays) is not a number"]
    rows = "user_id;item_id;stars;timestamp\na;m;4,x5;978300760\nb;m;9;978300760\n"
    rejected = _read(rows, tmp_path, rating_scale=(1, 5)).rejected.collect()
    assert rejected["reason"].to_list() == [
        f"rating (column stars) {why}" for why in ("is not a number", "outside 1 to 5")
    ]
    comma = rejected.head(1).with_columns(text=pl.lit("a;m;4,5;978300760"))
    with pytest.raises(SourceError, match='decimal = ","'):
        check_rejected(comma, 2)


def test_weights_with_decimal_commas_are_read(tmp_path):
    """Every row of a German export of amounts would be refused, whatever the setting, without a way out."""
    told = _read("user_id;item_id;weight\na;m;1,5\nb;m;2\n", tmp_path)
    assert told.ratings.collect()["rating"].to_list() == [1.5, 2]
    sent = told.sent.collect()
    quoted = 'user_id,item_id,weight\na,m,"1,555"\n'
    assert _read(quoted, tmp_path, decimal=",").ratings.collect()["rating"].to_list() == [pytest.approx(1.555)]
    with pytest.raises(SourceError, match=r"decimal = \",\" below \[data\]"):
        check_rejected(_read(quoted, tmp_path).rejected.collect(), 1)
    # As `compact` writes them, into a format in which the first rows tell no comma.
    sent.write_parquet(tmp_path / "events.parquet")
    again = read_source(tmp_path / "events.parquet", scratch=tmp_path / "again")
    assert again.ratings.collect()["rating"].to_list() == [1.5, 2]


def test_weights_add_up_per_user_and_item():
    """Who plays a song every day would count as one play, or repeats be thrown away."""
    times = pl.Series([3, 1, 2, 5]).cast(pl.Datetime("us", "UTC"))
    raw = pl.DataFrame(
        {
            "user_id": ["a", "a", "a", "b"],
            "item_id": ["m", "m", "n", "m"],
            "rating": pl.Series([1, 5, 2, -3], dtype=pl.Float32),
            "timestamp": times,
            "row": [0, 1, 2, 3],
        }
    )
    found = _summed(raw)
    assert found["rating"].to_list() == [6, 2, -3]
    assert found["n_events"].to_list() == [2, 1, 1]
    assert found["known_ratings"].to_list() == [[5, 6], None, None]
    assert found["known_n_events"].to_list() == [[1, 2], None, None]
    assert found["known_timestamps"][0].to_list() == [found["first_timestamp"][0], found["timestamp"][0]]
    assert found["first_timestamp"][0] == times[1]
    assert found["timestamp"][0] == times[0]
    assert found.drop("batch", "row").equals(_summed(raw.reverse()).drop("batch", "row"))
    damped = _summed(raw, "log1p")["rating"].to_list()
    assert damped == pytest.approx([math.log(7), math.log(3), -math.log(4)])


def test_every_weight_above_zero_is_liked():
    """Three quarters of all plays would count as not liked, because others were played more often."""
    ratings = lazy(_weights([(0, 0, 0.7), (0, 1, 12.8), (1, 0, -0.7), (1, 1, 0.0)]))
    liked = to_polars(ratings)["rating"] >= relevant_from(ratings)
    assert liked.to_list() == [True, True, False, False]
    preference = Preference.of(ratings, neutral_offset=-0.5)
    given = preference(np.array([0.7, 12.8, -0.7, 0.0], np.float32))
    assert np.sign(given).tolist() == [1, 1, -1, 0]


def test_a_prior_of_chance_does_not_outweigh_taste():
    """Where all items are played alike, lists would follow who happened to be played most, not what a user plays."""
    n_users, n_items, n_groups = 120, 60, 4
    made = plays(n_users=n_users, n_items=n_items, n_groups=n_groups)
    rows = made.select(
        user=pl.col("user_id").cast(pl.Int32),
        item=pl.col("item_id").cast(pl.Int32),
        rating=pl.col("weight").cast(pl.Float64).log1p().cast(pl.Float32),
        timestamp=pl.from_epoch("timestamp").cast(pl.Datetime("us", "UTC")),
        n_events=1,
    ).sort("timestamp")
    ratings, index = lazy(rows.head(len(rows) // 2)), Index(n_users, n_items, "test")
    features = lazy(pl.DataFrame({"user": np.arange(n_users, dtype=np.int32)}))
    prior = demographic_popularity.fit(
        ratings, index=index, user_features=features, settings=DemographicPopularitySettings()
    )
    assert prior.reliability < 0.3
    popular = rows.with_columns(item=(pl.col("item") ** 2 // n_items).cast(pl.Int32)).unique(["user", "item"])
    assert (
        demographic_popularity.fit(
            lazy(popular),
            index=index,
            user_features=features,
            settings=DemographicPopularitySettings(),
        ).reliability
        > 0.8
    )
    fitted = ease.fit(ratings, index=index, settings=ease.EASESettings())
    users = np.arange(n_users, dtype=np.int32)

    def own_share(of: DemographicPopularity) -> float:
        ranker = blend.ranker(
            blend.fit(ratings, index=index, settings=blend.BlendSettings()), fitted, of, np.zeros((n_users, 0))
        )
        lists = top_n(ranker, ratings, users)
        return float((lists["user"] % n_groups == lists["item"] % n_groups).mean())

    assert own_share(prior) > own_share(replace(prior, reliability=1.0)) + 0.1


def test_what_users_skip_speaks_against_what_they_skip():
    """A user would be shown more of what it returned or skipped."""
    rows = [(user, item, 1.0) for user in range(8) for item in range(4) if item // 2 == user % 2]
    model = ease.fit(lazy(_weights(rows)), index=Index(9, 4, "planted"), settings=ease.EASESettings(reg=1.0))
    _, rated = user_item_matrix(lazy(_weights([(8, 0, -1.0)])), n_items=4)
    assert model.scores(rated)[0, 1] < 0


def test_the_graph_of_events_predicts_no_rating(tmp_path):
    """A person would be shown predicted ratings of data that have none, or lack what events have."""
    home = Home(tmp_path / "home")
    home.prepare()
    (home.landing / "a.csv").write_text("user_id,item_id,timestamp\na,m,978300760\n")
    defs = build_defs(home=home, settings=Settings())
    graph = defs.get_repository_def().asset_graph
    keys = {key.to_user_string() for key in graph.get_all_asset_keys()}
    assert all(set(graph.get(key).parent_keys) <= graph.get_all_asset_keys() for key in graph.get_all_asset_keys())
    assert {"evaluation_report", "user_segments", "user_clusters", "recommendations", "study_scores"} <= keys
    assert {"predictions/top_n/blend", "predictions/next_item/transitions", "promoted_configuration"} <= keys
    assert not keys & {
        "als_adjusted_model",
        "segment_ratings",
        "backtest_scores",
        "cluster_ratings",
        "predictions/top_n/item_mean",
    }
    assert not any(key.startswith(("predictions/time_cut", "predictions/latest_rating")) for key in keys)
    assert "backtest" not in {job.name for job in defs.get_repository_def().get_all_jobs()}


@pytest.mark.slow
def test_plays_run_end_to_end(tmp_path):
    """Whoever has plays would get no lists, lists that miss the taste, or scores and report that speak of stars."""
    home, source = Home(tmp_path / "home"), tmp_path / "plays.csv"
    home.prepare()
    home.settings_file.write_text(FAST_SETTINGS)
    plays().write_csv(source)
    assert invoke("add", source, "--home", home.path).exit_code == 0
    ran = invoke("run", "--home", home.path)
    assert ran.exit_code == 0, ran.output
    assert "Events, not ratings" in ran.output
    reader = Reader(home)
    scores = reader.table("evaluation_scores").filter(pl.col("population") == "all", pl.col("metric") == "ndcg_10")
    by_model = dict(scores.select("model", "value").collect().iter_rows())
    assert by_model["selected"] > by_model["popularity"] + 0.1
    assert set(reader.table("evaluation_scores").collect()["metric"]) & {"rmse", "top5pct_rating", "r2"} == set()
    lists = reader.table("recommendations").filter(pl.col("rank") <= 5).collect()
    own = lists["user_id"].cast(pl.Int64) % 4 == lists["item_id"].cast(pl.Int64) % 4
    # Users have had most items of their own group: at random, one of eight would be of it.
    assert own.mean() > 0.35
    page = html.unescape(home.report.read_text())
    assert "Each user's next item" in page
    assert "Rating prediction" not in page
    assert invoke("promotions", "--home", home.path).exit_code == 0
    studied = invoke("study", "--protocols", "top_n,latest_rating", "--searches", "blend", "--home", home.path)
    assert studied.exit_code == 0, studied.output


def test_the_three_examples_of_the_page_are_what_it_says(tmp_path):
    """Whoever copies an example of "What do you have?" would be refused, or read as something else."""
    page = (Path(__file__).parent.parent / "docs" / "how-to" / "bring-your-data.md").read_text()
    examples = [part.split("```")[0] for part in page.split("## From a CSV")[0].split("```csv\n")[1:]]
    kinds = [DataKind(), DataKind(times=False), EVENTS]
    assert [_read(example, tmp_path).kind for example in examples] == kinds
