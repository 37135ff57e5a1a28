import narwhals as nw
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_assets.recommender.data.frames import lazy, to_polars
from recsys_assets.recommender.data.hints import attribute_hints, scale_hints, time_hints
from recsys_assets.recommender.data.index import Index
from recsys_assets.recommender.data.preferences import Preference, relevant_from, span
from recsys_assets.recommender.evaluation.quality import scored_finding, times_finding
from recsys_assets.recommender.features.matrices import user_item_matrix
from recsys_assets.recommender.models import ease


def _ratings(values: object) -> nw.LazyFrame:
    return lazy(pl.DataFrame({"rating": pl.Series(values, dtype=pl.Float32)}))


def _liked(values: object) -> pl.Series:
    ratings = pl.DataFrame({"rating": pl.Series(values, dtype=pl.Float32)})
    return ratings.filter(pl.col("rating") >= relevant_from(lazy(ratings)))["rating"]


# Counts of plays: the median is 20, the mean 150, the highest tens of thousands.
COUNTS = np.floor(np.exp(np.random.default_rng(0).normal(3, 2, 5_000))) + 1


@pytest.mark.parametrize(
    ("scale", "lowest"),
    [((1, 2, 3, 4, 5), 4), ((0.5, 3.5, 4, 5), 4), ((1, 2, 3), 3), ((0, 1), 1), ((1,), 1), ((0, 5, 7, 8, 10), 8)],
)
def test_what_is_liked_follows_from_the_scale(scale, lowest):
    """With ratings of 1 to 3 nothing would be liked, and nobody be shown anything; of 0 to 10 nearly all would be."""
    ratings = pl.DataFrame({"rating": pl.Series(scale, dtype=pl.Float32)})
    liked = ratings.filter(pl.col("rating") >= relevant_from(lazy(ratings)))["rating"]
    assert liked.min() == lowest


@settings(max_examples=200, deadline=None)
@given(
    step=st.integers(1, 400).map(lambda hundredths: hundredths / 100),
    first=st.integers(-200, 200),
    quarters=st.integers(1, 25),
)
def test_three_quarters_up_the_scale_is_liked_to_the_digit(step, first, quarters):
    """On scales such as 0.1 to 0.5 the rating that stands three quarters up would not count as liked."""
    scale = (np.arange(4 * quarters + 1) + first) * step
    liked = _liked(scale)
    assert liked.min() == np.float32(scale[3 * quarters])
    assert len(liked) == quarters + 1


@pytest.mark.parametrize("stray", [50.0, 5_000.0, -99.0])
def test_a_stray_rating_changes_nothing_for_the_others(stray):
    """One mistyped rating would leave nobody who liked anything, or everybody would have liked everything."""
    ratings = np.tile([1, 2, 3, 3, 4, 4, 4, 5], 200)
    assert _liked([*ratings, stray]).clip(0, 5).min() == 4
    with_it, without = (Preference.of(_ratings(r), neutral_offset=-0.5) for r in ([*ratings, stray], ratings))
    assert with_it(np.arange(1, 6, dtype=np.float32)) == pytest.approx(without(np.arange(1, 6.0)), abs=0.01)


def test_of_counts_the_highest_fifth_are_liked():
    """With counts of plays one user of hundreds would have liked something, and nobody else's lists be scored."""
    assert 0.2 <= len(_liked(COUNTS)) / len(COUNTS) <= 0.22


def test_counts_are_compared_by_their_logarithms():
    """What one user played 300,000 times would be all that lists are made from."""
    counted = np.append(COUNTS, 352_698)
    preference = Preference.of(_ratings(counted), neutral_offset=-0.5)
    given = preference(counted.astype(np.float32))
    assert np.abs(given).max() < 5
    assert given[np.argsort(counted)].tolist() == sorted(given)
    column = to_polars(_ratings(counted).select(preference.expression(nw.col("rating"))))["rating"]
    assert column.to_numpy() / preference.scale == pytest.approx(given, abs=1e-4)


def test_lists_from_counts_follow_the_taste():
    """Whoever brings counts of plays would get the same few items whatever they listen to."""
    generator = np.random.default_rng(1)
    user, item = np.nonzero(generator.random((60, 40)) < 0.35)
    own = user % 2 == item % 2
    plays = np.floor(np.exp(generator.normal(np.where(own, 5, 2.5), 1.2))) + 1
    plays[0] = 352_698
    table = {"user": user.astype(np.int32), "item": item.astype(np.int32), "rating": plays.astype(np.float32)}
    ratings = lazy(pl.DataFrame(table))
    model = ease.fit(ratings, index=Index(n_users=60, n_items=40, fingerprint="planted"), settings=ease.EASESettings())
    users, rated = user_item_matrix(ratings, n_items=40)
    top = np.argsort(np.where(rated.toarray() > 0, np.inf, -model.scores(rated)), axis=1)[:, :5]
    assert (top % 2 == users[:, None] % 2).mean() > 0.9


def test_without_ratings_nothing_is_liked():
    """A home whose ratings were all taken out would end in an error that names no cause."""
    nothing = _ratings([])
    assert np.isnan(relevant_from(nothing))
    assert scale_hints(nothing) == []
    assert np.isfinite(Preference.of(nothing, neutral_offset=-0.5)(np.ones(2, np.float32))).all()


@pytest.mark.parametrize("values", [(1, 2, 3, 4, 5), range(101), (0, 0, 0, 0, 8, 9, 10), (1,), (0, 1), (-10, 10)])
def test_rating_scales_are_compared_as_they_are(values):
    """A scale would be bent as if it were a count, and lists of everybody change."""
    assert span(_ratings(values)).unit == 0
    assert scale_hints(_ratings(values)) == []
    neutral, sd = np.mean(values) - 0.5 * np.std(values), np.std(values) or 1
    if np.std(values):
        expected = (np.array(values) - neutral) / sd
        found = Preference.of(_ratings(values), neutral_offset=-0.5)(np.array(values, np.float64))
        assert found == pytest.approx(expected)


def test_one_time_for_all_ratings_is_told():
    """Scores of what comes later would be read as if the data had an order."""
    once = lazy(pl.DataFrame({"timestamp": [0, 0, 0]}))
    assert "one time, which counts as none" in time_hints(once)[0]
    assert not times_finding(once).passed
    for times in ([0, 1], [5], []):
        assert time_hints(lazy(pl.DataFrame({"timestamp": pl.Series(times, dtype=pl.Int64)}))) == []


def test_counts_and_strays_are_told():
    """Scores that mean nothing would be shown as if the ratings were a scale."""
    assert "are counts or amounts" in scale_hints(_ratings(COUNTS))[0]
    assert "rating_scale = [1, 5]" in scale_hints(_ratings([1, 2, 3, 4, 5] * 400 + [50]))[0]


@pytest.mark.parametrize(("likers", "passed"), [(40, True), (8, False)])
def test_scores_of_few_users_are_told(likers, passed):
    """A score that rests on a handful of users would look like any other."""
    train = _ratings([1, 2, 3, 4, 5])
    users = pl.DataFrame({"user": range(100), "rating": [5.0] * likers + [2.0] * (100 - likers)})
    assert scored_finding(train, lazy(users)).passed is passed


def test_values_that_mean_the_same_are_told():
    """M, m and Male would be three kinds of people in every model, and nobody hear of it."""
    users = {
        "gender": ["M", "m", "Male", "F", "female ", "Female"],
        "job": ["artist", "actor", "a", None, "nurse", "cook"],
        "age": [1, 2, 3, 4, 5, 6],
    }
    told = attribute_hints(lazy(pl.DataFrame(users)))
    assert [line.split(" are told")[0] for line in told] == [
        "gender: 'F', 'Female', 'female '",
        "gender: 'M', 'm', 'Male'",
    ]
