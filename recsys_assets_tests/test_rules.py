"""Rules for lists: the items that a condition allows, the ratings that are left out, and lists under both."""

from datetime import UTC, date, datetime, timedelta

import narwhals as nw
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_assets.home.blocking import blocked_items, changed_blocked, rules_for_lists
from recsys_assets.home.layout import Home, HomeError
from recsys_assets.home.settings import Settings, SettingsError
from recsys_assets.recommender.data.frames import lazy, to_polars
from recsys_assets.recommender.evaluation.bootstrap import UserMetric, estimates
from recsys_assets.recommender.ranking import rankings
from recsys_assets.recommender.ranking.reasons import reasons
from recsys_assets.recommender.ranking.rules import RuleError, Rules
from recsys_assets.recommender.serving.rule_cost import NewItemsScore, rule_costs
from recsys_assets.recommender.serving.settings import ServingSettings

ITEMS = pl.DataFrame(
    {
        "item": range(4),
        "item_id": ["a", "b", "c", "d"],
        "title": ["Heat", "Ran", "Alien", None],
        "year": [1995, 1985, 1979, None],
        "genres": [["Crime"], ["Drama", "War"], ["Horror"], None],
        "available": [True, False, None, True],
        "in_stock": [1.0, 0.0, 1.0, None],
        "price": [9.5, 12.0, 3.0, 5.0],
        "kind": ["film", "film", "dvd", "dvd"],
        "released": [date(1995, 12, 15), date(1985, 6, 1), None, None],
    }
)


def allowed(**rules: object) -> str:
    """The ids that the rules allow, as one text."""
    return "".join(ITEMS.filter(Rules(**rules).allowed(ITEMS))["item_id"])


@pytest.mark.parametrize(
    ("where", "ids"),
    [
        ("", "abcd"),
        ("year >= 1980", "ab"),
        ("year >= 1980 and available", "a"),
        ("available", "ad"),
        ("coalesce(available, true)", "acd"),
        ("available is not false and price < 9", "d"),
        ("in_stock = 1", "ac"),
        ("in_stock", "ac"),
        ("in_stock and price < 9", "c"),
        ("kind in ('dvd', 'book') or price between 9 and 10", "acd"),
        ("array_contains(genres, 'War')", "b"),
        ("released >= DATE '1990-01-01'", "a"),
        ("Year >= 1980 AND Kind = 'film'", "ab"),
        ("item_id <> 'a'", "bcd"),
        ("price < (max(price) / 2)", "cd"),
    ],
)
def test_a_condition_allows_what_it_says(where, ids):
    """What is sold out would be recommended, or what is there would not."""
    assert allowed(where=where) == ids


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("stock > 0", ["stock", "The columns of items are: item_id (String), title", "in_stock (Float64)"]),
        ("kind > 3", ["does not fit", "kind (String)"]),
        ("released > '1990-01-01'", ["does not fit", "DATE '2024-01-31'"]),
        ("price", ["is Float64, not true or false", "price > 0"]),
        ("year > 2050", ["leaves none of the 4 items", "0 meet it", "No list was changed"]),
        ("year >", ["no SQL condition"]),
    ],
)
def test_a_condition_that_cannot_be_meant_is_refused(where, told):
    """Lists would be empty, or a misspelt column would end in a traceback of a library."""
    with pytest.raises(RuleError) as refused:
        allowed(where=where)
    assert all(part in str(refused.value) for part in told), str(refused.value)


@pytest.mark.parametrize("where", ["year >", "select 1", "year; drop", "*"])
def test_settings_refuse_what_is_no_condition(where, tmp_path):
    """A misspelt rule would be found minutes later, at the end of a run."""
    home = Home(tmp_path)
    home.settings_file.write_text(f'[serving]\nwhere = "{where}"\n')
    with pytest.raises(SettingsError, match=r"serving\.where: .*no SQL condition"):
        Settings.load(home)


def test_blocked_items_go_and_come_back(tmp_path):
    """What a court has forbidden would be shown, or what was let free would stay away."""
    home = Home(tmp_path)
    assert blocked_items(home) == frozenset()
    changed_blocked(home, lambda known: known | {"b", 'odd "id"\n'})
    assert blocked_items(home) == {"b", 'odd "id"\n'}
    rules = rules_for_lists(home, ServingSettings(where="year >= 1980"))
    assert ITEMS.filter(rules.allowed(ITEMS))["item_id"].to_list() == ["a"]
    with pytest.raises(RuleError, match=r"2 meet it\. 2 are blocked"):
        Rules(where="year >= 1980", blocked=frozenset("ab")).allowed(ITEMS)
    home.blocked.write_text("b\n")
    with pytest.raises(HomeError, match="line 1"):
        blocked_items(home)


def _days_ago(*days: int | None) -> list[datetime | None]:
    latest = datetime(2020, 6, 1, tzinfo=UTC)
    return [None if day is None else latest - timedelta(days=day) for day in days]


def test_what_was_rated_long_ago_may_come_back():
    """A shop whose customers buy again could never offer what they have bought, or would offer it the next day."""
    times = pl.Series(_days_ago(0, 30, 31, 400), dtype=pl.Datetime("us", "UTC"))
    ratings = lazy(pl.DataFrame({"user": [0, 0, 0, 1], "item": range(4), "rating": 1.0, "timestamp": times}))

    def out(**rules: object) -> list[int]:
        return to_polars(Rules(**rules).excluded(ratings))["item"].to_list()

    assert out() == [0, 1, 2, 3]
    assert out(exclude_rated_days=30) == [0, 1]
    assert out(exclude_rated=False) == []
    with pytest.raises(ValueError, match="no effect"):
        ServingSettings(exclude_rated=False, exclude_rated_days=30)


def test_days_without_times_are_told_to_do_nothing():
    """A shop whose data have no times would wait in vain for what was bought to come back."""
    never = datetime(1970, 1, 1, tzinfo=UTC)
    ratings = pl.DataFrame({"user": [0, 1], "item": [0, 1], "rating": 1.0, "timestamp": [never, never]})
    rules = Rules(exclude_rated_days=30)
    assert len(to_polars(rules.excluded(lazy(ratings)))) == 2
    assert "without effect: the ratings have no times" in str(rules.told(lazy(ratings))["exclude_rated_days"])
    timed = ratings.with_columns(timestamp=pl.Series(_days_ago(0, 1)))
    assert rules.told(lazy(timed))["exclude_rated_days"] == 30


@given(
    st.integers(0, 1000), st.integers(1, 6), st.integers(1, 12), st.integers(1, 14), st.floats(0, 1), st.floats(0, 1)
)
def test_everybody_gets_the_best_of_what_may_be_shown(seed, n_users, n_items, n, share, may_share):
    """Under a rule users would get fewer items than there are, forbidden ones, or not the best ones."""
    random = np.random.default_rng(seed)
    rated, out = (random.random((n_users, n_items)) < share for _ in range(2))
    out &= rated
    may = random.random(n_items) < may_share
    scores = random.integers(0, 4, n_items)
    cells = [
        lazy(pl.DataFrame({"user": of.nonzero()[0], "item": of.nonzero()[1]}).with_columns(rating=pl.lit(1.0)))
        for of in (rated, out)
    ]
    ranker = rankings.for_everybody(scores, random.random(n_items) < 0.8)
    best = rankings.top_n(ranker, cells[0], np.arange(n_users), n=n, allowed=may, excluded=cells[1])
    for user in range(n_users):
        left = np.flatnonzero(may & ~out[user])
        known = ranker.item_known
        expected = sorted(left, key=lambda item, known=known: (not known[item], -scores[item] * known[item], item))
        assert best.filter(pl.col("user") == user)["item"].to_list() == expected[:n]


def test_an_item_that_comes_back_is_no_reason_for_itself():
    """'Because of' would say: you have seen it."""
    ranker = rankings.Ranker(
        lambda users, _: np.tile([3.0, 2.0], (len(users), 1)),
        np.ones(2, bool),
        contributions=lambda own, rows, _: np.ones(np.diff(own.indptr)[rows].sum()),
    )
    rated = lazy(pl.DataFrame({"user": [0, 0], "item": [0, 1], "rating": [5.0, 4.0]}))
    because = reasons(pl.DataFrame({"user": [0, 0], "item": [0, 1]}), rated, ranker)
    assert because.select("item", "because", "share").rows() == [(0, 1, 1.0), (1, 0, 1.0)]


def _limited(genres: list[list[int]], most: int) -> rankings.Limits:
    return Rules(max_per_value={"genres": most}).limits(pl.DataFrame({"item_id": range(len(genres)), "genres": genres}))


@given(
    st.integers(0, 1000), st.integers(1, 4), st.integers(1, 10), st.integers(1, 6), st.integers(1, 3), st.floats(0, 1)
)
def test_no_list_holds_more_of_one_value_than_allowed(seed, n_users, n_items, n, most, share):
    """A list would hold ten films of one genre, or leave out films that the rule allows."""
    random = np.random.default_rng(seed)
    genres = [random.choice(4, random.integers(0, 3), replace=False).tolist() for _ in range(n_items)]
    scores = random.integers(0, 5, (n_users, n_items)).astype(float)
    rated = random.random((n_users, n_items)) < share
    ranker = rankings.Ranker(lambda users, _: scores[users].copy(), np.ones(n_items, bool))
    ratings = pl.DataFrame({"user": rated.nonzero()[0], "item": rated.nonzero()[1]}).with_columns(rating=pl.lit(1.0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rankings, "_CANDIDATES_PER_PLACE", 1)
        best = rankings.top_n(ranker, lazy(ratings), np.arange(n_users), n=n, limits=_limited(genres, most))
    for user in range(n_users):
        expected, counts = [], dict.fromkeys(range(4), 0)
        for item in sorted(np.flatnonzero(~rated[user]), key=lambda item, user=user: (-scores[user, item], item)):
            if len(expected) < n and all(counts[genre] < most for genre in genres[item]):
                expected.append(item)
                counts |= {genre: counts[genre] + 1 for genre in genres[item]}
        rows = best.filter(pl.col("user") == user)
        assert rows["item"].to_list() == expected and rows["rank"].to_list() == list(range(1, len(expected) + 1))


def test_a_limit_takes_any_column_and_refuses_an_unknown_one():
    """A limit on the seller of an item would do nothing, or end in a traceback."""
    limits = Rules(max_per_value={"kind": 1, "genres": 2}).limits(ITEMS)
    assert limits.kept(np.array([0, 1, 2, 3]), 4) == [0, 2]
    with pytest.raises(RuleError, match=r"no column 'brand'\. The columns of items are: item_id"):
        Rules(max_per_value={"brand": 1}).limits(ITEMS)
    with pytest.raises(ValueError, match="genres: at least 1"):
        ServingSettings(max_per_value={"genres": 0})


def test_the_cost_of_a_limit_is_that_of_the_same_users_and_rows():
    """A rule that takes the liked films out of lists would look free."""
    genres, scores = [[0], [0], [1]], np.array([3.0, 2.0, 1.0])
    ranker = rankings.for_everybody(scores, np.ones(3, bool))
    train = lazy(pl.DataFrame({"user": [9], "item": [0], "rating": [4.0]}))
    test = lazy(pl.DataFrame({"user": [0, 1, 2], "item": [1, 2, 0], "rating": [4.0, 4.0, 4.0]}))
    items = pl.DataFrame({"item": range(3), "item_id": ["a", "b", "c"], "genres": [["x"], ["x"], ["y"]]})
    limits = _limited(genres, 1)
    cost = rule_costs(ranker, items, train, test, n=3, limits=limits).of_rules["max_per_value"]
    # User 0 loses rank 2; user 1 moves from rank 3 to 2; user 2 keeps rank 1.
    second, third = 1 / np.log2(3), 1 / np.log2(4)
    assert cost.without == pytest.approx((second + third + 1) / 3)
    assert cost.within == pytest.approx((second + 1) / 3)
    assert cost.low <= cost.within - cost.without <= cost.high
    assert (cost.n_users, cost.n_short) == (3, 3)
    assert rule_costs(ranker, items, train, test.filter(nw.col("rating") > 4), n=3, limits=limits) is None
    # Of few users, the interval is widened as everywhere else.
    many = lazy(pl.DataFrame({"user": range(10, 22), "item": [1, 2, 0] * 4, "rating": 4.0}))
    cost = rule_costs(ranker, items, train, many, n=3, limits=limits).of_rules["max_per_value"]
    change = UserMetric("change", np.divide, (np.array([-second, second - third, 0] * 4), np.ones(12)))
    (expected,) = estimates([change], np.ones(12, bool), seed=0, n_resamples=1_000)
    assert (cost.low, cost.high) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_the_cost_of_places_for_new_items_and_what_they_find_is_told():
    """Whoever gives places to new items would not know what they take from lists, or whether anybody likes them."""
    kinds = ["x", "y", "x", "y", "x", "y", "x"]
    items = pl.DataFrame({"item": range(7), "item_id": list("abcdefg"), "genres": [[kind] for kind in kinds]})
    # Nobody has rated items 4 to 6 in training. The model shows 2 and 3 to everybody.
    train = lazy(pl.DataFrame({"user": [0, 1, 8, 9], "item": [0, 1, 2, 3], "rating": [5.0] * 4}))
    ranker = rankings.for_everybody(np.array([1.0, 1, 3, 2, 0, 0, 0]), np.arange(7) < 4)
    # User 0 likes the new item of its kind, user 1 the item that gives way to a new one. The third row is disliked.
    test = lazy(pl.DataFrame({"user": [0, 1, 1], "item": [4, 3, 5], "rating": [5.0, 5.0, 1.0]}))
    costs = rule_costs(ranker, items, train, test, n=2, explore=1)
    assert costs.new_items == NewItemsScore(
        n_new=3, n_shown=2, n_lists=2, n_places=2, n_liked=1, n_displaced=2, n_displaced_liked=1, n_likes=1
    )
    cost, second = costs.of_rules["explore"], 1 / np.log2(3)
    assert (cost.without, cost.within) == (pytest.approx(second / 2), pytest.approx(second / 2))
    assert cost.low < 0 < cost.high and (cost.n_users, cost.n_short) == (2, 0)
    # Each rule is added to the ones before it.
    both = rule_costs(ranker, items, train, test, n=2, limits=_limited([[0], [1]] * 3 + [[0]], 1), explore=1)
    assert [*both.of_rules] == ["max_per_value", "explore"]
    assert both.of_rules["explore"].without == both.of_rules["max_per_value"].within
    assert rule_costs(ranker, items, train, test, n=2, limits=_limited([[0]] * 7, 2)).new_items is None
