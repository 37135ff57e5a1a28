"""Protocols by name: what they hand to models, what they measure, and scores put beside scores."""

from collections.abc import Mapping

import narwhals as nw
import numpy as np
import polars as pl
import pytest

from recsys_assets.recommender.data import splitting
from recsys_assets.recommender.data.frames import lazy, row_count, to_polars
from recsys_assets.recommender.data.tables import TABLES
from recsys_assets.recommender.evaluation import protocols
from recsys_assets.recommender.evaluation.comparing import leakage_audit, over_seeds, reseeded
from recsys_assets.recommender.evaluation.result import EvaluationResult
from recsys_assets.recommender.ranking import rankings
from recsys_assets.recommender.registry import Entry

N_USERS, N_ITEMS = 40, 30
NAMES = (
    "time_cut",
    "time_cut_0.6",
    "random_90_10",
    "random_80_20",
    "u1",
    *protocols.NEW_USERS,
    "leave_last_out",
    "top_n",
    "top_n_random_80_20",
    "top_n_leave_last_out",
)
SELECTED = {"time_cut": "item_mean", "top_n": "listed", "latest_rating": "item_mean", "next_item": "listed"}


@pytest.fixture(scope="module")
def tables() -> dict[str, nw.LazyFrame]:
    """40 users with 5 to 30 ratings of 30 items; women rate a star lower than men."""
    generator = np.random.default_rng(3)
    pairs = [(u, m) for u in range(N_USERS) for m in generator.permutation(N_ITEMS)[: generator.integers(5, 31)]]
    stars = generator.integers(2, 6, len(pairs)) - np.array([user % 2 for user, _ in pairs])
    ratings = pl.DataFrame(pairs, schema={"user": pl.Int32, "item": pl.Int32}, orient="row").with_columns(
        rating=pl.Series(stars, dtype=pl.Float32),
        timestamp=pl.Series(generator.integers(0, 10**6, len(pairs)) * 10**6).cast(pl.Datetime("us", "UTC")),
        batch=pl.lit(0, dtype=pl.Int32),
        row=pl.int_range(pl.len()),
    )
    ids = pl.DataFrame({"user": pl.Series(range(N_USERS), dtype=pl.Int32)})
    users = ids.with_columns(
        user_id=pl.col("user").cast(pl.String),
        gender=pl.Series(["M", "F"] * (N_USERS // 2)),
        age=pl.Series([17.0, 18.0, 56.0, None] * (N_USERS // 4)),
    )
    items = pl.DataFrame(
        {"item": range(N_ITEMS), "item_id": map(str, range(N_ITEMS)), "genres": [["Drama"], ["War"]] * 15},
        schema_overrides={"item": pl.Int32},
    )
    in_test = (pl.col("row") % 5 == 0).replace_strict({True: "test", False: "train"})
    folds = ratings.select("user", "item", fold=pl.lit("u1"), partition=in_test)
    frames = {"ratings": ratings, "users": users, "items": items, "published_folds": folds}
    return {name: lazy(frame) for name, frame in frames.items()}


def _listed() -> rankings.Ranker:
    """By the item's number."""
    scores = -1 - np.arange(N_ITEMS, dtype=np.float32)[:, None]
    return rankings.of_vectors(np.ones((N_USERS, 1), np.float32), scores)


def _guess(pairs: nw.LazyFrame) -> nw.LazyFrame:
    """Three stars, whatever the pair."""
    return pairs.select("user", "item", prediction=nw.lit(3.0))


def _entry(name: str, task) -> Entry:
    return Entry(name, task, lambda pairs: pairs)


def _measured(name: str, tables: Mapping[str, nw.LazyFrame], **others) -> EvaluationResult:
    cut = protocols.split(name, tables, seed=1)
    if name.startswith("latest_rating"):
        pairs = nw.concat([cut["train_responses"], cut["test_responses"]])
        rated = nw.concat([cut["train_histories"], cut["test_histories"]])
    else:
        pairs, rated = cut["test_ratings"], cut["train_ratings"]
    made = {"item_mean": _guess(pairs), "listed": lazy(rankings.rank_pairs(_listed(), pairs, rated=rated))}
    predictions = {_entry(SELECTED[task], task): made[SELECTED[task]] for task in protocols.tasks(name)}
    return protocols.measured(name, cut, predictions, selected=SELECTED, **others)


@pytest.mark.parametrize("name", NAMES)
def test_protocols_share_out_rows_without_overlap(tables, name):
    """A model would be scored on ratings that it was trained on."""
    cut = protocols.split(name, tables, seed=1)
    train, test = (to_polars(cut[f"{side}_ratings"]) for side in ("train", "test"))
    assert len(train) and len(test)
    assert train.join(test, on=["user", "item"]).is_empty()
    assert cut.keys() >= {"users", "items"}
    assert train.columns == test.columns == list(TABLES["ratings"].columns)
    whole = len(train) + len(test) == row_count(tables["ratings"])
    assert whole != name.startswith("new_users") or name == "new_users_20"


def test_case_study_b_holds_back_responses_of_both_sides(tables):
    """The study would have no case study B, or its users on both sides."""
    cut = protocols.split("latest_rating", tables, seed=1)
    sides = {side: to_polars(cut[f"{side}_responses"]) for side in ("train", "test")}
    assert set(sides["train"]["user"]) | set(sides["test"]["user"]) == set(range(N_USERS))
    assert not set(sides["train"]["user"]) & set(sides["test"]["user"])


def test_what_comes_after_a_cut_is_predicted_from_what_came_before_it(tables):
    """A next item would look easy, because others have already rated what came out after it."""
    cut = {name: to_polars(frame) for name, frame in protocols.split("latest_rating_time_cut", tables).items()}
    before, after = (to_polars(protocols.split("time_cut", tables)[f"{side}_ratings"]) for side in ("train", "test"))
    known = pl.concat(cut[name] for name in ("train_histories", "train_responses", "test_histories"))
    assert sorted(known["row"]) == sorted(before["row"])
    first = after.sort("timestamp", "batch", "row").unique("user", keep="first")
    expected = first.filter(pl.col("user").is_in(before["user"].implode()))
    assert cut["test_responses"].sort("user").equals(expected.sort("user").select(cut["test_responses"].columns))
    assert not set(cut["train_responses"]["user"]) & set(after["user"])


@pytest.mark.parametrize("name", ["time_cut_80", "random_90_20", "new_users", "u6", "top_n_u6", "none"])
def test_unknown_protocols_are_refused_with_those_there_are(tables, name):
    """A typing error would be a study of something else."""
    with pytest.raises(ValueError, match=r"no protocol .*random_<train>_<test>"):
        protocols.split(name, tables)


def test_new_users_are_scored_on_the_same_rows_however_much_they_reveal(tables):
    """The curve from cold to warm would compare different rows."""
    tests = [to_polars(protocols.split(name, tables)["test_ratings"])["row"].sort() for name in protocols.NEW_USERS]
    assert all(rows.equals(tests[0]) for rows in tests)
    cold, warm = (to_polars(protocols.split(f"new_users_{n}", tables)["train_ratings"]) for n in (0, 20))
    held_out = to_polars(tables["ratings"]).join(cold, on="user", how="anti")
    assert held_out["user"].n_unique() > 1
    revealed = held_out.group_by("user").len()["len"].clip(0, splitting.MOST_REVEALED)
    assert len(warm) - len(cold) == revealed.sum()
    whole = protocols.split(protocols.COLD_USERS, tables)
    assert to_polars(whole["train_ratings"]).sort("row").equals(cold.sort("row"))
    assert to_polars(whole["test_ratings"])["row"].sort().equals(held_out["row"].sort())


@pytest.mark.parametrize("name", ["time_cut", "random_80_20", "u1", "top_n", "latest_rating", "latest_rating_time_cut"])
def test_every_table_has_bounds_gains_and_groups(tables, name):
    """A score would stand without what it has to be read beside."""
    scores = _measured(name, tables).scores(seed=0, n_resamples=20)
    assert set(scores["protocol"]) == {name}
    leads = {"top_n": ("ndcg_10",), "latest_rating": ("rmse", "r2", "next_item_hit_10")}.get(name, ("rmse",))
    for metric in leads:
        of = scores.filter(metric=metric)
        assert {"random", "upper_bound", "selected"} <= set(of["model"])
        gains = scores.filter(metric=f"{metric}_gain", model="selected").join(of, on="population", suffix="_of")
        bounds = {bound: of.filter(model=bound) for bound in ("random", "upper_bound")}
        for row in gains.filter(pl.col("model_of") == "selected").iter_rows(named=True):
            low, high = (bounds[b].filter(population=row["population"])["value"].item() for b in bounds)
            assert row["value"] == pytest.approx((row["value_of"] - low) / (high - low))
            assert row["low"] <= row["value"] + 1e-9
    assert {"gender F", "gender M", "age 0-17", "age 18-24", "age 56+"} & set(scores["population"])
    if name == "time_cut":
        assert {"random", "popularity", "item_mean", "upper_bound", "selected"} == set(scores["model"])


def test_the_gap_is_to_everybody_else(tables):
    """A model that serves women worse would show no gap."""
    measured = _measured("random_80_20", tables)
    scores = measured.scores(seed=0, n_resamples=50).filter(model="item_mean")
    value = {(row["population"], row["metric"]): row for row in scores.iter_rows(named=True)}
    women, men, gap = value["gender F", "rmse"], value["gender M", "rmse"], value["gender F", "rmse_gap"]
    assert gap["value"] == pytest.approx(women["value"] - men["value"])
    assert gap["low"] < gap["value"] < gap["high"]
    assert gap["n"] == women["n"]
    assert value["gender M", "rmse_gap"]["value"] == pytest.approx(-gap["value"])
    assert ("all", "rmse_gap") not in value


@pytest.mark.parametrize(
    ("name", "metric", "population"), [("time_cut", "rmse", "all"), ("latest_rating", "r2", "test_users")]
)
def test_improvements_are_paired_and_positive_where_a_model_is_better(tables, name, metric, population):
    """A reader would take a sure lead for chance, because the intervals of the two scores overlap."""
    measured = _measured(name, tables)
    scores = measured.scores(seed=0, n_resamples=50).filter(population=population, metric=metric)
    value = dict(scores.select("model", "value").iter_rows())
    improved = measured.improvements(seed=0, n_resamples=50).filter(population=population)
    rows = improved.filter(metric=f"{metric}_over_item_mean")
    assert set(rows["model"]) == set(value) - {"random", "upper_bound"}
    sign = -1 if metric == "rmse" else 1
    for row in rows.iter_rows(named=True):
        assert row["value"] == pytest.approx(sign * (value[row["model"]] - value["item_mean"]))
        assert row["low"] <= row["value"] + 1e-9 <= row["high"] + 2e-9
    assert rows.filter(model="item_mean").select("value", "low", "high").row(0) == (0, 0, 0)
    over_selected = improved.filter(metric=f"{metric}_over_selected", model="selected")
    assert over_selected["value"].to_list() == [0]


def test_scores_of_users_are_those_of_their_rows(tables):
    """Whoever looks into single users would see other numbers than those that were pooled."""
    measured = _measured("random_80_20", tables)
    rows = measured.user_scores()
    assert rows.columns == list(TABLES["user_scores"].columns)
    assert not rows.select("model", "metric", "user").is_duplicated().any()
    assert set(rows["model"]) == {"item_mean", "random", "popularity", "upper_bound"}
    test = to_polars(protocols.split("random_80_20", tables, seed=1)["test_ratings"])
    for row in rows.filter(model="item_mean", metric="rmse").iter_rows(named=True):
        own = test.filter(user=row["user"])["rating"].cast(pl.Float64)
        assert row["value"] == pytest.approx(np.sqrt(((own - 3) ** 2).mean()))
        assert row["n"] == len(own)
    pooled = measured.scores(seed=0, n_resamples=20).filter(model="item_mean", metric="rmse", population="all")
    of_users = rows.filter(model="item_mean", metric="rmse")
    assert pooled["value"].item() ** 2 == pytest.approx(np.average(of_users["value"] ** 2, weights=of_users["n"]))


def test_lists_are_the_first_unrated_items(tables, monkeypatch):
    """Coverage and novelty would be of lists that nobody is shown."""
    cut = protocols.split("top_n", tables)
    listed = _entry("listed", "top_n")
    whole = protocols.lists(cut, [listed], lambda _: _listed(), k=5)
    rated = to_polars(cut["train_ratings"])
    for (user,), shown in to_polars(whole["listed"]).group_by("user"):
        unrated = [m for m in range(N_ITEMS) if m not in set(rated.filter(user=user)["item"])]
        assert shown.sort("rank")["item"].to_list() == unrated[:5]
    drawn = to_polars(whole["random"])
    assert drawn.join(rated, on=["user", "item"]).is_empty()
    assert drawn["item"].n_unique() > 20
    monkeypatch.setattr("recsys_assets.recommender.ranking.rankings._SCORES_PER_BLOCK", 3 * N_ITEMS)
    blocks = protocols.lists(cut, [listed], lambda _: _listed(), k=5)
    assert all(
        to_polars(blocks[name]).sort("user", "rank").equals(to_polars(whole[name]).sort("user", "rank"))
        for name in whole
    )
    scores = _measured("top_n", tables, lists=whole).scores(seed=0, n_resamples=20)
    names = {"catalog_coverage", "novelty_10", "popularity_10", "popularity_bias_10", "genre_diversity_10"}
    assert {model for (model,), of in scores.group_by("model") if names <= set(of["metric"])} == {
        "listed",
        "selected",
        "random",
    }
    bare = cut["items"].with_columns(genres=nw.lit(None).cast(nw.List(nw.String())))
    without_genres = _measured("top_n", tables | {"items": bare}, lists=whole).scores(seed=0, n_resamples=20)
    assert set(scores["metric"]) - set(without_genres["metric"]) == {"genre_diversity_10"}


# Scores beside scores


def _scores(*rows: tuple[str, str, str, float, float, float]) -> pl.DataFrame:
    table = pl.DataFrame(rows, schema=["protocol", "model", "metric", "value", "low", "high"], orient="row")
    return table.with_columns(population=pl.lit("seen"), n=pl.lit(10)).select(*TABLES["evaluation_scores"].columns)


def test_several_seeds_give_their_mean_and_their_spread():
    """A lucky seed would be reported as the method."""
    runs = [_scores(("time_cut", "als", "rmse", value, value - 0.1, value + 0.2)) for value in (0.9, 0.92, 0.94)]
    [row] = over_seeds(runs).to_dicts()
    assert (row["value"], row["low"], row["high"]) == pytest.approx((0.92, 0.82, 1.12))
    assert row["seed_sd"] == pytest.approx(0.02)
    assert row["seeds"] == 3
    assert over_seeds(runs[:1])["seed_sd"].item() == 0
    assert over_seeds(runs[:1] * 7)["seed_sd"].item() == 0
    assert over_seeds(runs).columns == list(TABLES["study_scores"].columns)


def test_another_seed_reaches_every_section():
    """Several seeds would be the same model several times."""
    parameters = {"als": {"rank": 4, "seed": 1}, "item_mean": {"shrinkage": 10.0}, "clusters": {"k": 2, "seed": 0}}
    again = reseeded(parameters, 5)
    assert [again["als"], again["item_mean"], again["clusters"]] == [
        {"rank": 4, "seed": 6},
        {"shrinkage": 10.0},
        {"k": 2, "seed": 5},
    ]


def test_models_are_audited_beside_the_honest_split_of_their_own_task():
    """A ranking would be held against the wrong scores, and the audit tell of no leak or of one that is not there."""
    scores = _scores(
        ("time_cut", "als", "rmse", 0.95, 0.94, 0.98),
        ("random_80_20", "als", "rmse", 0.85, 0.81, 0.86),
        ("top_n", "als", "ndcg_10", 0.30, 0.29, 0.31),
        ("top_n_random_80_20", "als", "ndcg_10", 0.42, 0.40, 0.45),
        ("top_n_leave_last_out", "als", "ndcg_10", 0.25, 0.24, 0.26),
        ("time_cut", "als", "ndcg_10", 0.9, 0.9, 0.9),
        ("new_users_5", "als", "rmse", 0.5, 0.5, 0.5),
    )
    rows = {(row["protocol"], row["metric"]): row for row in leakage_audit(scores).to_dicts()}
    assert {key: row["honest"] for key, row in rows.items()} == {
        ("random_80_20", "rmse"): 0.95,
        ("top_n_random_80_20", "ndcg_10"): 0.30,
        ("top_n_leave_last_out", "ndcg_10"): 0.30,
    }
    random, last = (rows[f"top_n_{split}", "ndcg_10"] for split in ("random_80_20", "leave_last_out"))
    assert random["optimism"] == pytest.approx(0.12) and last["optimism"] == pytest.approx(-0.05)
    assert random["high"] - random["optimism"] == pytest.approx(np.hypot(0.03, 0.01))
    assert leakage_audit(scores.filter(pl.col("protocol") != "top_n"))["protocol"].to_list() == ["random_80_20"]


def test_optimism_is_positive_where_a_split_flatters():
    """The audit would call the honest split the flattering one for errors, where lower is better."""
    audit = leakage_audit(
        _scores(
            ("time_cut", "als", "rmse", 0.95, 0.94, 0.98),
            ("random_80_20", "als", "rmse", 0.85, 0.81, 0.86),
            ("time_cut", "als", "top5pct_rating", 4.2, 4.1, 4.3),
            ("leave_last_out", "als", "top5pct_rating", 4.5, 4.4, 4.7),
            ("leave_last_out", "als", "mae", 0.7, 0.6, 0.8),
        )
    )
    rows = {(row["protocol"], row["metric"]): row for row in audit.to_dicts()}
    assert rows.keys() == {("random_80_20", "rmse"), ("leave_last_out", "top5pct_rating")}
    error, top = rows["random_80_20", "rmse"], rows["leave_last_out", "top5pct_rating"]
    assert error["optimism"] == pytest.approx(0.1)
    assert top["optimism"] == pytest.approx(0.3)
    # The worse end: honest 0.94 against 0.86; the better one: honest 0.98 against 0.81.
    assert error["optimism"] - error["low"] == pytest.approx(np.hypot(0.01, 0.01))
    assert error["high"] - error["optimism"] == pytest.approx(np.hypot(0.03, 0.04))
    assert top["high"] - top["optimism"] == pytest.approx(np.hypot(0.2, 0.1))
