"""Scores: formulas against other software and by hand, bounds, fallbacks, intervals, and case study A's numbers."""

import itertools
import zipfile
from pathlib import Path

import narwhals as nw
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score, r2_score

from recsys_assets.home.running import SparkSettings
from recsys_assets.orchestration.resources import spark_resource
from recsys_assets.recommender.data.frames import lazy
from recsys_assets.recommender.data.tables import TABLES
from recsys_assets.recommender.evaluation.bootstrap import UserMetric, estimates, resampled_totals
from recsys_assets.recommender.evaluation.latest_rating import measure_latest_rating
from recsys_assets.recommender.evaluation.metrics import RankingMetrics, RatingMetrics, mean
from recsys_assets.recommender.evaluation.rows import ScoredRows
from recsys_assets.recommender.evaluation.time_cut import measure_ratings
from recsys_assets.recommender.evaluation.top_n import measure_top_n

ML_1M = Path(__file__).parents[2] / "shared" / "data" / "ml-1m.zip"
FEW = {"n_resamples": 20}


def scored(measure, *args, seed: int = 0, n_resamples: int, **others) -> pl.DataFrame:
    """What a protocol measures, as the table of scores."""
    return measure(*args, seed=seed, **others).scores(seed=seed, n_resamples=n_resamples)


INDEX = {"user": pl.Int32, "item": pl.Int32}


def ratings(*rows: tuple[int, int, float]) -> nw.LazyFrame:
    """Rows (user, item, rating)."""
    return lazy(pl.DataFrame(rows, schema={**INDEX, "rating": pl.Float32}, orient="row"))


def predictions(*rows: tuple[int, int, float | None]) -> nw.LazyFrame:
    """Rows (user, item, prediction)."""
    return lazy(pl.DataFrame(rows, schema={**INDEX, "prediction": pl.Float32}, orient="row"))


def ranking(*rows: tuple[int, int, int | None]) -> nw.LazyFrame:
    """Rows (user, item, rank)."""
    return lazy(pl.DataFrame(rows, schema={**INDEX, "rank": pl.Int32}, orient="row"))


def score(scores: pl.DataFrame, model: str, metric: str, population: str = "all", column: str = "value"):
    """One number of a table of scores; None if it has no such row."""
    found = scores.filter(model=model, metric=metric, population=population)
    return found[column].item() if len(found) else None


class Cut:
    """A random small time cut: some users seen, predictions with ties and gaps."""

    def __init__(self, seed: int, n_users: int = 4) -> None:
        rng = np.random.default_rng(seed)
        rows = [(user, item) for user in range(n_users) for item in range(rng.integers(1, 62))]
        stars = rng.integers(1, 6, len(rows)).astype(float)
        guesses = rng.integers(2, 9, len(rows)) / 2
        own = [None if rng.random() < 0.3 else float(g) for g in rng.integers(1, 12, len(rows)) / 2]
        self.train = ratings(*[(user, 900, 3.0) for user in range(0, n_users, 2)])
        self.test = ratings(*[(*row, star) for row, star in zip(rows, stars, strict=True)])
        self.predictions = {
            "item_mean": predictions(*[(*row, guess) for row, guess in zip(rows, guesses, strict=True)]),
            "gappy": predictions(*[(*row, guess) for row, guess in zip(rows, own, strict=True)]),
            "als_unadjusted": predictions(*[(*row, guess) for row, guess in zip(rows, own, strict=True)]),
        }

    def scores(self, **changes) -> pl.DataFrame:
        """Its scores, with other arguments where given."""
        given = {"selected": "gappy", "seed": 3, **FEW, **changes}
        return scored(
            measure_ratings,
            given.pop("train", self.train),
            given.pop("test", self.test),
            given.pop("predictions", self.predictions),
            **given,
        )


cuts = st.integers(0, 10**6).map(Cut)


def shuffled(frame: nw.LazyFrame) -> nw.LazyFrame:
    """The same rows in another order."""
    return lazy(frame.collect().to_native().sample(fraction=1, shuffle=True, seed=8))


# The table


@settings(max_examples=20)
@given(cuts)
def test_scores_are_a_complete_tidy_table(cut):
    """The report and `scores --json` would show nulls, NaN or rows in changing order."""
    scores = cut.scores()
    declared = TABLES["evaluation_scores"]
    assert scores.columns == list(declared.columns)
    assert nw.from_native(scores).schema == {name: column.dtype for name, column in declared.columns.items()}
    numbers = scores.select("value", "low", "high").to_numpy()
    assert np.isfinite(numbers).all()
    assert scores.equals(scores.sort("protocol", "model", "population", "metric"))
    assert not scores.select("protocol", "model", "population", "metric").is_duplicated().any()
    assert (scores["n"] > 0).all()


def test_a_population_without_users_has_no_rows():
    """A run in which every test user is known would fail, or show scores of nobody."""
    test = ratings((0, 0, 4.0), (0, 1, 2.0))
    guess = {"item_mean": predictions((0, 0, 3.0), (0, 1, 3.0))}
    scores = scored(measure_ratings, ratings((0, 5, 3.0)), test, guess, selected="item_mean", **FEW)
    assert set(scores["population"]) == {"all", "seen", "few_ratings"}
    nobody = scored(measure_ratings, ratings((0, 5, 3.0)), ratings(), guess, selected="item_mean", **FEW)
    assert nobody.is_empty()
    assert nobody.schema == scores.schema


@settings(max_examples=20)
@given(cuts)
def test_the_order_of_rows_does_not_matter(cut):
    """Two engines, or two runs, would give different scores for the same tables."""
    again = cut.scores(
        train=shuffled(cut.train),
        test=shuffled(cut.test),
        predictions={model: shuffled(frame) for model, frame in reversed(cut.predictions.items())},
    )
    assert again.equals(cut.scores())


def test_selected_repeats_the_chosen_model():
    """The headline numbers would not be those of the model that serves."""
    scores = Cut(1).scores(selected="als_unadjusted")
    chosen, repeated = (scores.filter(model=model).drop("model") for model in ("als_unadjusted", "selected"))
    assert chosen.equals(repeated)


@pytest.mark.parametrize(
    ("models", "selected", "message"),
    [
        ({"item_mean": [(0, 0, 3.0)]}, "als", "no predictions of als; there are: item_mean"),
        ({"als": [(0, 0, 3.0)]}, "als", "no predictions of item_mean"),
        ({"item_mean": [(0, 0, 3.0)], "random": [(0, 0, 3.0)]}, "item_mean", "models named random"),
        ({"item_mean": [(0, 0, None)]}, "item_mean", "does not predict 1 of 1, the first: user 0, item 0"),
        ({"item_mean": [(0, 0, 3.0), (0, 0, 4.0)]}, "item_mean", "more than one row for the same user and item"),
    ],
)
def test_unusable_predictions_are_refused_by_name(models, selected, message):
    """A wrong table would silently become a wrong score instead of an error that names the model."""
    frames = {model: predictions(*rows) for model, rows in models.items()}
    with pytest.raises(ValueError, match=message):
        scored(measure_ratings, ratings((0, 1, 3.0)), ratings((0, 0, 3.0)), frames, selected=selected, **FEW)


# time_cut


@pytest.mark.parametrize(
    ("n", "top"), [(1, 1), (19, 1), (20, 1), (21, 2), (40, 2), (60, 3), (61, 4), (100, 5), (140, 7)]
)
def test_the_top_five_percent_are_counted_in_whole_numbers(n, top):
    """Rounding errors of 0.05 × n would take one row too many, and no published number would be met."""
    rows = [(0, item) for item in range(n)]
    guess = predictions(*[(*row, float(row[1])) for row in rows])
    test = ratings(*[(*row, 5.0 if row[1] >= n - top else 1.0) for row in rows])
    scores = scored(measure_ratings, ratings(), test, {"item_mean": guess}, selected="item_mean", **FEW)
    for metric in ("top5pct_rating", "top5pct_rating_published"):
        assert score(scores, "item_mean", metric, column="n") == top
        assert score(scores, "item_mean", metric) == 5.0


def test_top_ratings_are_pooled_over_users():
    """A user with a hundred test rows would weigh no more than one with a single row."""
    many = [(0, item, 5.0 if item < 5 else 1.0) for item in range(100)]
    guess = {"item_mean": predictions(*[(0, m, 9.0 - m) for m in range(100)], (1, 0, 3.0))}
    scores = scored(
        measure_ratings, ratings((1, 7, 1.0)), ratings(*many, (1, 0, 2.0)), guess, selected="item_mean", **FEW
    )
    assert score(scores, "item_mean", "top5pct_rating") == pytest.approx((5 * 5 + 2) / 6)
    assert score(scores, "item_mean", "top5pct_rating", "seen") == 2.0
    assert score(scores, "item_mean", "top5pct_rating", "unseen") == 5.0
    assert score(scores, "random", "top5pct_rating") == pytest.approx((5 * 1.2 + 2) / 6)


@settings(max_examples=60)
@given(cuts)
def test_published_rule_is_the_95th_percentile_of_each_user(cut):
    """The comparison with case study A would use another rule than the one behind its numbers."""
    frame = cut.test.collect().to_native().join(cut.predictions["gappy"].collect().to_native(), on=["user", "item"])
    taken = []
    for _, rows in frame.group_by("user"):
        predicted = rows["prediction"].fill_null(1.0).cast(pl.Float64).to_numpy()
        taken.extend(rows["rating"].to_numpy()[predicted >= np.percentile(predicted, 95)])
    scores = cut.scores()
    assert score(scores, "gappy", "top5pct_rating_published", column="n") == len(taken)
    assert score(scores, "gappy", "top5pct_rating_published") == pytest.approx(np.mean(taken))


@settings(max_examples=40)
@given(cuts)
def test_no_order_beats_the_upper_bound(cut):
    """A model could seem better than the best possible one."""
    top = cut.scores().filter(metric="top5pct_rating")
    for population in ("all", "seen", "unseen"):
        values = top.filter(population=population)
        assert values["value"].max() == values.filter(model="upper_bound")["value"].item()


@settings(max_examples=40)
@given(cuts)
def test_the_top_depends_on_the_order_of_predictions_alone(cut):
    """A model on another scale would get another score for the same order."""
    stretched = {
        model: frame.with_columns(prediction=nw.col("prediction") ** 3 + 100)
        for model, frame in cut.predictions.items()
    }
    same = [
        ("item_mean", "top5pct_rating"),
        ("item_mean", "top5pct_rating_published"),
        ("als_unadjusted", "top5pct_rating"),
    ]
    before, after = cut.scores(), cut.scores(predictions=stretched)
    for model, metric in same:
        assert score(after, model, metric) == score(before, model, metric)


def test_ties_are_broken_at_random_and_random_is_their_expectation():
    """A constant prediction would profit from the order of the file, or the lower bound would be off."""
    sizes, copies = (3, 25, 47), 700
    stars = [np.random.default_rng(0).integers(1, 6, n) for n in sizes]
    test = ratings(*[(3 * c + u, m, r) for c in range(copies) for u in range(3) for m, r in enumerate(stars[u])])
    measure = RatingMetrics(ScoredRows.of(test.collect().to_native(), seed=0))
    drawn, expected = (
        metric.parts[0].reshape(copies, 3)
        for metric in (measure.top5pct_rating(np.zeros(sum(sizes) * copies)), measure.random_order()[0])
    )
    assert (drawn.std(axis=0) > 0.5).all()
    error = (drawn.mean(axis=0) - expected[0]) / (drawn.std(axis=0) / np.sqrt(copies))
    assert (np.abs(error) < 4).all()
    assert expected[0] == pytest.approx(
        [picks * of_user.mean() for picks, of_user in zip((1, 2, 3), stars, strict=True)]
    )


def test_rows_without_a_prediction_fall_back_to_item_mean():
    """Models would be compared on different rows, and one that predicts little would look good."""
    test = ratings((0, 0, 5.0), (0, 1, 1.0), (1, 0, 3.0))
    models = {
        "item_mean": predictions((0, 0, 4.0), (0, 1, 2.0), (1, 0, 3.0)),
        "partial": predictions((0, 0, 5.0), (1, 0, float("nan")), (7, 7, 1.0)),
    }
    scores = scored(measure_ratings, ratings((0, 9, 3.0)), test, models, selected="partial", **FEW)
    assert score(scores, "partial", "rmse") == pytest.approx(np.sqrt((0 + 1 + 0) / 3))
    assert score(scores, "partial", "mae") == pytest.approx(1 / 3)
    assert score(scores, "partial", "r2") == pytest.approx(1 - 1 / 8)
    assert score(scores, "partial", "prediction_coverage") == pytest.approx(1 / 3)
    assert score(scores, "item_mean", "rmse", "unseen") == 0
    assert {score(scores, model, "rmse", column="n") for model in ("partial", "item_mean", "upper_bound")} == {3}


def test_the_unfilled_model_orders_the_rest_at_random():
    """Case study A's model without the fill would borrow the order of the item mean."""
    pairs = [(user, item) for user in (0, 1) for item in range(20)]
    test = ratings(*[(*pair, 5.0 if pair[1] == 0 else 1.0) for pair in pairs])
    models = {
        "item_mean": predictions(*[(*pair, 5.0 - pair[1] / 10) for pair in pairs]),
        "als_unadjusted": predictions((0, 3, 0.5)),
    }
    runs = [
        scored(measure_ratings, ratings((0, 99, 1.0)), test, models, selected="item_mean", seed=seed, n_resamples=1)
        for seed in range(40)
    ]
    assert {score(run, "als_unadjusted", "top5pct_rating", "seen") for run in runs} == {1.0}
    assert {score(run, "als_unadjusted", "top5pct_rating", "unseen") for run in runs} == {1.0, 5.0}
    assert score(runs[0], "als_unadjusted", "top5pct_rating_published", "unseen", "n") == 20
    # The prediction of 0.5 is below the 1.0 that the published rule gives to missing ones.
    assert score(runs[0], "als_unadjusted", "top5pct_rating_published", "seen", "n") == 19
    for metric in ("rmse", "mae", "r2"):
        given_for = set(runs[0].filter(model="als_unadjusted", metric=metric)["population"])
        assert given_for == {"seen", "few_ratings"}


def test_r2_is_zero_for_the_mean_and_missing_without_spread():
    """R² would be measured from another zero than in the case study, or be infinite where all ratings are equal."""
    # For 38 ratings of 0.3 the spread comes out as 4e-16 in floats.
    rows = [(0, 0, 5.0), (0, 1, 2.0), (0, 2, 2.0), *[(1, item, 0.3) for item in range(38)]]
    average = np.mean([rating for _, _, rating in rows])
    guess = {"item_mean": predictions(*[(user, item, average) for user, item, _ in rows])}
    scores = scored(measure_ratings, ratings((0, 99, 3.0)), ratings(*rows), guess, selected="item_mean", **FEW)
    assert score(scores, "item_mean", "r2") == pytest.approx(0, abs=1e-6)
    assert score(scores, "item_mean", "r2", "unseen") is None
    assert score(scores, "item_mean", "r2", "seen") == pytest.approx(r2_score([5, 2, 2], [average] * 3), abs=1e-5)
    assert score(scores, "upper_bound", "r2") == 1


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 40).map(lambda step: step / 8), min_size=3, max_size=30), st.integers(-20, 20))
def test_the_r2_of_shifted_ratings_is_the_same(ratings, exponent):
    """Ratings far from 0, such as years or prices, would have no R², or one that is rounding."""
    truth, error = np.array(ratings), np.sin(np.arange(len(ratings)))
    shift = float(np.sign(exponent) * 2.0 ** abs(exponent))

    def r2(by: float) -> float:
        table = {"user": range(len(truth)), "item": range(len(truth)), "rating": truth + by}
        rows = ScoredRows.of(pl.DataFrame(table), seed=0)
        order = rows.rating - by
        metric = RatingMetrics(rows).errors(rows.rating + error[np.argsort(np.argsort(order))])[2]
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(metric.formula(*(part.sum() for part in metric.parts)))

    assert r2(shift) == pytest.approx(r2(0.0), rel=1e-6, nan_ok=True)
    assert np.isnan(r2(shift)) == (len(set(ratings)) == 1)


# Bootstrap


def test_the_interval_of_a_mean_is_the_normal_one():
    """Intervals would be too narrow or too wide, and a difference would be believed or doubted wrongly."""
    rng = np.random.default_rng(1)
    rows = np.full(400, 5)
    metric = UserMetric("mean", mean, (rows * rng.normal(3.5, 1, 400), rows))
    [estimate] = estimates([metric], np.ones(400, dtype=bool), seed=0, n_resamples=4000)
    assert estimate.n == 2000
    assert estimate.low < estimate.value < estimate.high
    half = 1.96 * np.std(metric.parts[0] / 5) / np.sqrt(400)
    assert (estimate.high - estimate.low) / 2 == pytest.approx(half, rel=0.06)


def test_intervals_of_few_users_hold_the_truth():
    """Of a small catalogue's differences one in eight would be called real that is none."""
    rng = np.random.default_rng(2)
    held = 0
    for seed in range(400):
        metric = UserMetric("mean", mean, (rng.normal(0, 1, 12), np.ones(12)))
        [estimate] = estimates([metric], np.ones(12, dtype=bool), seed=seed, n_resamples=400)
        held += estimate.low <= 0 <= estimate.high
    assert held / 400 > 0.93


@settings(max_examples=30)
@given(st.lists(st.floats(0.1, 5), min_size=2, max_size=30), st.integers(0, 1000))
def test_symmetric_scores_lie_inside_their_interval(deviations, seed):
    """A report would print a score outside its own interval."""
    values = 3 + np.array([*deviations, *(-np.array(deviations))])
    metric = UserMetric("mean", mean, (values, np.ones(len(values))))
    [estimate] = estimates([metric], np.ones(len(values), dtype=bool), seed=seed, n_resamples=300)
    assert estimate.low <= estimate.value <= estimate.high


@pytest.mark.parametrize("n_resamples", [1, 7, 23])
def test_resamples_draw_as_many_users_as_there_are(monkeypatch, n_resamples):
    """Working in blocks would lose or repeat draws, or draw too few users."""
    whole = resampled_totals(np.eye(9), seed=4, n_resamples=n_resamples)
    assert whole.shape == (n_resamples, 9)
    assert (whole.sum(axis=1) == 9).all()
    monkeypatch.setattr("recsys_assets.recommender.evaluation.bootstrap._CELLS", 9 * 4)
    assert (resampled_totals(np.eye(9), seed=4, n_resamples=n_resamples) == whole).all()


def test_another_model_changes_no_other_interval():
    """Adding a model would change the published numbers of all others, and differences would not be paired."""
    cut = Cut(5)
    alone = cut.scores(predictions={"item_mean": cut.predictions["item_mean"]}, selected="item_mean")
    together = cut.scores().filter(pl.col("model") == "item_mean")
    assert together.drop("value", "low", "high").equals(alone.filter(model="item_mean").drop("value", "low", "high"))
    numbers = ["value", "low", "high"]
    np.testing.assert_allclose(together[numbers], alone.filter(model="item_mean")[numbers], rtol=1e-12)


# latest_rating


def at(seconds: int | dict[int, int], frame: nw.LazyFrame) -> nw.LazyFrame:
    """Ratings at a time in seconds, or at one for each user."""
    when = nw.lit(seconds) if isinstance(seconds, int) else nw.col("user").replace_strict(seconds)
    return frame.with_columns(timestamp=(when * 1_000_000).cast(nw.Datetime("us")))


def latest(**changes) -> pl.DataFrame:
    """Scores of two train users and two test users, with other arguments where given."""
    given = {
        "responses": {
            "train_users": at(7, ratings((0, 0, 4.0), (2, 1, 2.0))),
            "test_users": at(7, ratings((1, 2, 5.0), (3, 0, 3.0))),
        },
        "rating_predictions": {
            "item_mean": predictions((0, 0, 3.0), (2, 1, 3.0), (1, 2, 4.0), (3, 0, 4.0)),
            "segment_mean": predictions((0, 0, 4.0), (1, 2, 5.0)),
        },
        "rankings": {
            "popularity": ranking((0, 0, 1), (2, 1, 11), (1, 2, 10), (3, 0, None)),
            "segment_mean": ranking((2, 1, 1)),
        },
        "histories": {
            "train_users": at(0, ratings(*[(0, 100 + item, 3.0) for item in range(8)])),
            "test_users": at(0, ratings(*[(1, 100 + item, 3.0) for item in range(15)])),
        },
        "selected": "segment_mean",
        "n_items": 20,
        **FEW,
        **changes,
    }
    return scored(measure_latest_rating, **given)


def test_the_response_is_scored_for_both_partitions():
    """Case study B's R² would mix users that trained the segments with users that did not."""
    scores = latest()
    assert set(scores["population"]) == {"train_users", "test_users"}
    assert score(scores, "item_mean", "r2", "train_users") == pytest.approx(0)
    assert score(scores, "segment_mean", "r2", "train_users") == pytest.approx(1 - 1 / 2)
    assert score(scores, "segment_mean", "r2", "test_users") == pytest.approx(1 - 1 / 2)
    assert score(scores, "segment_mean", "rmse", "test_users") == pytest.approx(np.sqrt(1 / 2))
    assert score(scores, "segment_mean", "mae", "test_users") == pytest.approx(1 / 2)
    assert score(scores, "segment_mean", "prediction_coverage", "test_users") == pytest.approx(1 / 2)
    assert score(scores, "upper_bound", "r2", "test_users") == 1
    assert score(scores, "upper_bound", "rmse", "test_users") == 0
    assert score(scores, "popularity", "r2", "test_users") is None


def test_the_next_item_is_hit_by_rank():
    """A ranking would get hits for items it does not list, or lose those at the end of the list."""
    scores = latest()
    hits = {
        (model, k, population): score(scores, model, f"next_item_hit_{k}", population)
        for model in ("popularity", "segment_mean", "random", "upper_bound", "item_mean", "selected")
        for k in (1, 10)
        for population in ("train_users", "test_users")
    }
    assert [hits["popularity", 1, p] for p in ("train_users", "test_users")] == [0.5, 0]
    assert [hits["popularity", 10, p] for p in ("train_users", "test_users")] == [0.5, 0.5]
    assert [hits["segment_mean", 1, p] for p in ("train_users", "test_users")] == [0.5, 0]
    assert hits["selected", 1, "train_users"] == 0.5
    assert hits["upper_bound", 1, "test_users"] == 1
    assert hits["item_mean", 1, "test_users"] is None
    assert hits["random", 1, "train_users"] == pytest.approx((1 / 12 + 1 / 20) / 2)
    assert hits["random", 10, "train_users"] == pytest.approx((10 / 12 + 10 / 20) / 2)
    assert hits["random", 10, "test_users"] == pytest.approx((1 + 10 / 20) / 2)


def test_test_users_are_scored_by_how_long_they_paused():
    """A model that continues a rating page would look as good as one that knows what somebody comes back for."""
    pause = {user: [0, 600, 3600][user % 3] for user in range(33)}
    asked, before = (ratings(*[(user, item, 3.0) for user in pause]) for item in (0, 1))
    scores = latest(
        responses={"train_users": at(0, ratings((99, 0, 4.0))), "test_users": at(pause, asked)},
        rating_predictions={"item_mean": predictions((99, 0, 3.0), *[(user, 0, 3.0) for user in pause])},
        rankings={"popularity": ranking(*[(user, 0, 1 + 10 * (user % 3)) for user in pause])},
        histories={"train_users": at(0, ratings((99, 1, 3.0))), "test_users": at(0, before)},
        selected="item_mean",
        selected_ranking="popularity",
    )
    hits = {
        name: score(scores, "popularity", "next_item_hit_10", f"test_users_{name}")
        for name in ("same_second", "same_session", "new_session")
    }
    assert hits == {"same_second": 1, "same_session": 0, "new_session": 0}
    assert score(scores, "popularity", "next_item_hit_10", "test_users_new_session", "n") == 11


def test_ratings_and_rankings_may_select_different_models():
    """The chosen ranking would not appear under `selected` beside the chosen rating model."""
    scores = latest(selected="item_mean", selected_ranking="popularity")
    assert score(scores, "selected", "r2", "train_users") == score(scores, "item_mean", "r2", "train_users")
    assert score(scores, "selected", "next_item_hit_10", "test_users") == 0.5
    with pytest.raises(ValueError, match="no predictions of lost; there are: popularity, segment_mean"):
        latest(selected_ranking="lost")


def test_a_catalogue_smaller_than_a_history_is_refused():
    """A wrong catalogue size would give a negative chance of a random hit."""
    with pytest.raises(ValueError, match="the history of user 1 leaves no item of 15 unseen"):
        latest(n_items=15)


# top_n


def test_ranking_metrics_by_hand():
    """Top-N scores would not be comparable with those of other recommender libraries."""
    test = ratings((0, 0, 4.0), (0, 1, 5.0), (0, 2, 4.0), (0, 3, 3.5), (1, 0, 4.0), (2, 0, 1.0))
    lists = {"list": ranking((0, 0, 5), (0, 1, 2), (0, 2, 11), (0, 3, 1), (1, 0, None))}
    scores = scored(
        measure_top_n, ratings((1, 9, 1.0)), test, lists, n_items=12, selected="list", relevant_from=4.0, **FEW
    )
    ideal = 1 + 1 / np.log2(3) + 1 / 2
    by_hand = {
        "ndcg_10": (1 / np.log2(6) + 1 / np.log2(3)) / ideal,
        "recall_10": 2 / 3,
        "precision_10": 2 / 10,
        "map_10": (1 / 2 + 2 / 5) / 3,
        "mrr_10": 1 / 2,
        "hit_rate_10": 1,
    }
    for metric, expected in by_hand.items():
        assert score(scores, "list", metric, "unseen") == pytest.approx(expected), metric
        assert score(scores, "list", metric, "seen") == 0
        assert score(scores, "list", metric) == pytest.approx(expected / 2)
        assert score(scores, "list", metric, column="n") == 2
    perfect = {metric: score(scores, "upper_bound", metric, "unseen") for metric in by_hand}
    assert perfect == pytest.approx(dict.fromkeys(by_hand, 1) | {"precision_10": 3 / 10})


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 12))
def test_ndcg_agrees_with_scikit_learn(seed, k):
    """NDCG would mean something else here than everywhere else."""
    rng = np.random.default_rng(seed)
    n_users, n_items = 5, 15
    relevant = rng.random((n_users, n_items)) < 0.3
    relevant[:, 0] = True
    ranks = np.array([rng.permutation(n_items) + 1 for _ in range(n_users)])
    pairs = list(np.argwhere(np.ones_like(relevant)))
    test = ratings(*[(u, m, 4.0 if relevant[u, m] else 3.0) for u, m in pairs])
    lists = {"list": ranking(*[(u, m, ranks[u, m]) for u, m in pairs])}
    scores = scored(
        measure_top_n, ratings(), test, lists, n_items=n_items, selected="list", relevant_from=4.0, k=k, **FEW
    )
    assert score(scores, "list", f"ndcg_{k}") == pytest.approx(ndcg_score(relevant, -ranks, k=k))
    assert score(scores, "upper_bound", f"ndcg_{k}") == pytest.approx(1)


@pytest.mark.parametrize(("candidates", "relevant", "k"), [(6, 1, 2), (6, 3, 2), (6, 5, 3), (3, 2, 10)])
def test_random_ranking_is_the_mean_over_all_orders(candidates, relevant, k):
    """The lower bound of the top-N table would be off, and with it every gain over it."""
    rows = ScoredRows.of(ratings(*[(0, m, 5.0) for m in range(relevant)]).collect().to_native(), seed=0)
    measure = RankingMetrics(rows, k)
    orders = [
        measure.of_ranks(np.array(order[:relevant], dtype=float))
        for order in itertools.permutations(range(1, candidates + 1))
    ]
    expected = {
        metrics[0].name: np.mean([metric.parts[0][0] for metric in metrics]) for metrics in zip(*orders, strict=True)
    }
    closed = {m.name: m.parts[0][0] for m in measure.random_order(np.array([candidates]))}
    assert closed.keys() == {f"{name}_{k}" for name in ("ndcg", "recall", "precision", "hit_rate")}
    assert closed == pytest.approx({name: expected[name] for name in closed})


def test_training_ratings_are_no_candidates_of_the_random_ranking():
    """Heavy users' chance level would be understated."""
    train = ratings(*[(0, 50 + item, 3.0) for item in range(80)])
    test = ratings((0, 0, 5.0), (1, 0, 5.0))
    lists = {"list": ranking((0, 0, 1), (1, 0, 1))}
    scores = scored(measure_top_n, train, test, lists, n_items=100, selected="list", relevant_from=4.0, **FEW)
    assert score(scores, "random", "hit_rate_10", "seen") == pytest.approx(10 / 20)
    assert score(scores, "random", "hit_rate_10", "unseen") == pytest.approx(10 / 100)
    with pytest.raises(ValueError, match="user 0 has more relevant test items than the 80 items leave"):
        scored(measure_top_n, train, test, lists, n_items=80, selected="list", relevant_from=4.0, **FEW)


@pytest.mark.parametrize(
    ("rows", "message"),
    [([(0, 0, 0), (0, 1, 1)], "a rank is below 1"), ([(0, 0, 2), (0, 1, 2)], "two items of user 0 share a rank")],
)
def test_rankings_with_impossible_ranks_are_refused(rows, message):
    """A ranking that counts from 0, or in ties, would be scored too high."""
    test = ratings((0, 0, 5.0), (0, 1, 5.0))
    with pytest.raises(ValueError, match=message):
        scored(
            measure_top_n,
            ratings(),
            test,
            {"list": ranking(*rows)},
            n_items=9,
            selected="list",
            relevant_from=4.0,
            **FEW,
        )


# Engines and real data


@pytest.mark.slow
@pytest.mark.spark
def test_spark_tables_give_the_same_scores(tmp_path):
    """Scores on a cluster would differ from those of a laptop."""
    session = spark_resource(SparkSettings(master="local[2]"), tmp_path).spark_session

    def on_spark(frame: nw.LazyFrame, name: str) -> nw.LazyFrame:
        frame.collect().to_native().write_parquet(tmp_path / f"{name}.parquet")
        return nw.from_native(session.read.parquet(str(tmp_path / f"{name}.parquet")))

    cut = Cut(2)
    frames = {model: on_spark(frame, model) for model, frame in cut.predictions.items()}
    again = cut.scores(train=on_spark(cut.train, "train"), test=on_spark(cut.test, "test"), predictions=frames)
    assert again.equals(cut.scores())


@pytest.fixture(scope="module")
def case_study_a() -> pl.DataFrame:
    """Scores of the item mean on MovieLens 1M: the first 800,000 ratings train, ties in the order of the file."""
    if not ML_1M.exists():
        pytest.skip(f"needs MovieLens 1M as {ML_1M}")
    with zipfile.ZipFile(ML_1M) as archive:
        text = archive.read("ml-1m/ratings.dat").replace(b"::", b"\t")
    schema = {**INDEX, "rating": pl.Float32, "timestamp": pl.Int64}
    rows = pl.read_csv(text, separator="\t", has_header=False, schema=schema).sort("timestamp", maintain_order=True)
    train, test = rows[:800_000], rows[800_000:]
    overall = train["rating"].cast(pl.Float64).mean()
    shrunk = (pl.col("rating").cast(pl.Float64).sum() + 10 * overall) / (pl.len() + 10)
    item_mean = (
        test.join(train.group_by("item").agg(prediction=shrunk), on="item", how="left")
        .with_columns(pl.col("prediction").fill_null(overall))
        .select("user", "item", "prediction")
    )
    only_seen = item_mean.filter(pl.col("user").is_in(train["user"].unique().implode()))
    models = {"item_mean": lazy(item_mean), "als_unadjusted": lazy(only_seen)}
    return scored(measure_ratings, lazy(train), lazy(test), models, selected="item_mean", n_resamples=200)


@pytest.mark.parametrize(
    ("model", "metric", "population", "expected", "tolerance"),
    [
        ("random", "top5pct_rating", "all", 3.558, 0.002),
        ("random", "top5pct_rating", "seen", 3.502, 0.002),
        ("random", "top5pct_rating", "unseen", 3.623, 0.002),
        ("item_mean", "top5pct_rating", "all", 4.284, 0.005),
        ("item_mean", "top5pct_rating", "seen", 4.204, 0.005),
        ("item_mean", "top5pct_rating", "unseen", 4.376, 0.005),
        ("upper_bound", "top5pct_rating", "all", 4.939, 0.002),
        ("item_mean", "rmse", "all", 0.969, 0.001),
        ("item_mean", "rmse", "seen", 0.957, 0.001),
        ("item_mean", "rmse", "unseen", 0.981, 0.001),
        ("als_unadjusted", "prediction_coverage", "all", 1 - 0.4779, 0.0001),
        ("als_unadjusted", "top5pct_rating", "unseen", 3.623, 0.05),
    ],
)
def test_case_study_a_scores(case_study_a, model, metric, population, expected, tolerance):
    """The scores could not be compared with case study A, whose split is reproduced row by row."""
    assert score(case_study_a, model, metric, population) == pytest.approx(expected, abs=tolerance)


def test_case_study_a_takes_as_many_rows(case_study_a):
    """The published rule would not show that it takes every row of the users it knows nothing of."""
    assert score(case_study_a, "item_mean", "top5pct_rating", column="n") == 10_920
    assert score(case_study_a, "item_mean", "top5pct_rating_published", column="n") == 10_920
    assert score(case_study_a, "als_unadjusted", "top5pct_rating_published", column="n") == 101_501
    low, high = (score(case_study_a, "item_mean", "top5pct_rating", column=end) for end in ("low", "high"))
    assert 0.02 < high - low < 0.1
