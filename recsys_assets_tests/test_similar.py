"""Items like an item, and places of lists for items that nobody has rated."""

import json
import re
from dataclasses import replace

import dagster as dg
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from scipy import sparse

from recsys_assets.cli.reader import Reader
from recsys_assets.cli.recommending import recommended
from recsys_assets.home.blocking import changed_blocked
from recsys_assets.home.data_kind import kept_kind
from recsys_assets.home.layout import Home
from recsys_assets.home.promotions import Promotions
from recsys_assets.home.settings import Settings
from recsys_assets.home.versions import AssetStore, scan
from recsys_assets.orchestration.checks.rules import Stored, look
from recsys_assets.recommender.data.frames import lazy
from recsys_assets.recommender.data.index import Index
from recsys_assets.recommender.features.attribute_vectors import attribute_vectors
from recsys_assets.recommender.models import ease, item_knn
from recsys_assets.recommender.models.als import ALSModel
from recsys_assets.recommender.promotion.gate import Configuration, Decision, Verdict
from recsys_assets.recommender.ranking import rankings
from recsys_assets.recommender.ranking.rankings import Limits, of_popularity, top_n
from recsys_assets.recommender.ranking.reasons import reasons
from recsys_assets.recommender.ranking.rules import Rules
from recsys_assets.recommender.registry.fitting import ModelFitter
from recsys_assets.recommender.serving import recommendations as serving
from recsys_assets.recommender.serving.audience import Audience
from recsys_assets.recommender.serving.new_items import NewItems
from recsys_assets.recommender.serving.recommendations import ServingModel
from recsys_assets.recommender.serving.similar import similar_findings, similar_items
from recsys_assets_tests.conftest import FAST_SETTINGS, invoke
from recsys_assets_tests.made_up import made_up
from recsys_assets_tests.running import copied, materialize, table

N_ITEMS = 10
EVERYTHING = np.ones(N_ITEMS, bool)
# Of each group an item that nobody has rated.
NEW = {8, 9}


def _catalogue() -> pl.DataFrame:
    genres = [["Drama"], ["Comedy"]]
    items = range(N_ITEMS)
    return pl.DataFrame(
        {
            "item": pl.Series(items, dtype=pl.Int32),
            "item_id": [f"i{item}" for item in items],
            "title": [f"Title {item}" for item in items],
            "year": pl.Series([1990] * N_ITEMS, dtype=pl.Int32),
            "genres": [genres[item % 2] for item in items],
        }
    )


def _ratings() -> pl.DataFrame:
    """Users like items of their own group, even or odd."""
    random = np.random.default_rng(0)
    rows = []
    for user in range(40):
        own = random.choice(np.arange(user % 2, 8, 2), 3, replace=False)
        rows += [(user, int(item), 5.0) for item in own]
    schema = {"user": pl.Int32, "item": pl.Int32, "rating": pl.Float32}
    return pl.DataFrame(rows, schema=schema, orient="row").unique(["user", "item"], maintain_order=True)


def _model(name: str) -> ServingModel:
    index, rows = Index(40, N_ITEMS, "test"), lazy(_ratings())
    if name == "popularity":
        return ServingModel(name, {}, "test")
    if name == "implicit_als":
        factors = np.array([[1.0, 0.1] if item % 2 else [0.1, 1.0] for item in range(N_ITEMS)], np.float32)
        factors[sorted(NEW)] = 0
        model = object.__new__(ALSModel)
        object.__setattr__(model, "item_factors", factors)
        return ServingModel(name, {"implicit_als_model": model}, "test")
    fitted = (
        ease.fit(rows, index=index, settings=ease.EASESettings(reg=5.0))
        if name == "ease"
        else item_knn.fit(rows, index=index, settings=item_knn.ItemKNNSettings())
    )
    return ServingModel(name, {f"{name}_model": fitted}, "test")


def _similar(name: str, n: int = 3, **rules) -> pl.DataFrame:
    everything = np.arange(N_ITEMS, dtype=np.int32)
    return similar_items(_model(name), _catalogue(), everything, n=n, **{"allowed": EVERYTHING, **rules})


def _is_of_group(table: pl.DataFrame) -> pl.Series:
    item, other = (table[name].str.strip_prefix("i").cast(int) for name in ("item_id", "similar_item_id"))
    return item % 2 == other % 2


@pytest.mark.parametrize("name", ["ease", "item_knn", "implicit_als", "popularity"])
def test_similar_items_are_of_the_same_taste_whatever_model_is_served(name):
    """Who looks at an item would be shown anything, or an error where the served model has no similarities."""
    found = _similar(name)
    assert len(found) == 3 * N_ITEMS and _is_of_group(found).all()
    by = found.filter(pl.col("item_id") == "i0")["by"].to_list()
    assert by == (["attributes"] * 3 if name == "popularity" else ["ratings"] * 3)
    assert set(found.filter(pl.col("item_id") == "i9")["by"]) == {"attributes"}, "nobody has rated it"
    catalogue = _catalogue()
    assert all(each.passed for each in similar_findings(found, catalogue, n=3, allowed=catalogue["item_id"]))
    barred = similar_findings(found, catalogue, n=3, allowed=catalogue["item_id"].head(2))
    assert not all(each.passed for each in barred)


def test_rules_hold_for_similar_items():
    """What is sold out or blocked would still be shown below its neighbours."""
    allowed = EVERYTHING.copy()
    allowed[[2, 4]] = False
    found = _similar("ease", n=8, allowed=allowed)
    assert not {"i2", "i4"} & set(found["similar_item_id"])
    assert {"i2", "i4"} <= set(found["item_id"]), "what is not shown can still be asked about"
    two_of_each = Limits(sparse.csr_array(np.eye(2)[np.arange(N_ITEMS) % 2]), np.array([2, 2]))
    assert found.group_by("item_id").len()["len"].max() > 2
    limited = _similar("ease", n=8, limits=two_of_each)
    assert limited.group_by("item_id").len()["len"].max() <= 4


def test_a_limit_shortens_no_list_while_other_similar_items_are_left():
    """Beside an item of a large genre three items would stand, where ten may be shown."""
    genres = [*["drama"] * 30, *["war"] * 5, *["crime"] * 5]
    catalogue = pl.DataFrame(
        {
            "item": pl.Series(range(40), dtype=pl.Int32),
            "item_id": [f"i{item}" for item in range(40)],
            "title": "",
            "genres": [[genre] for genre in genres],
            "publisher": ["p"] * 35 + ["q"] * 5,
        }
    )
    limits, asked = Rules(max_per_value={"genres": 3}).limits(catalogue), np.arange(40, dtype=np.int32)
    found = similar_items(_model("popularity"), catalogue, asked, n=6, allowed=np.ones(40, bool), limits=limits)
    own = found.filter(item_id="i0").sort("rank")
    assert [genres[int(item[1:])] for item in own["similar_item_id"]] == ["drama"] * 3 + ["war"] * 3
    assert found.select("item_id", "rank").is_unique().all() and found["item_id"].n_unique() == 40


def _random_items(seed: int, n_items: int) -> tuple[np.random.Generator, list[list[str]], pl.DataFrame]:
    """Items with one to three of five genres, and the ratings of 15 users of the first two thirds of the items."""
    random = np.random.default_rng(seed)
    genres = [random.choice([*"abcde"], random.integers(1, 4), replace=False).tolist() for _ in range(n_items)]
    user, item = (random.random((15, 2 * n_items // 3)) < random.random((15, 1)) / 2).nonzero()
    return random, genres, pl.DataFrame({"user": user, "item": item, "rating": random.choice([1.0, 5.0], len(user))})


def _greedy(items: list[int], genres: list[list[str]], most: int, n: int) -> list[int]:
    """The first n items of which no genre has more than `most`."""
    kept: list[int] = []
    for item in items:
        held = [genre for other in kept for genre in genres[other]]
        if len(kept) < n and all(held.count(genre) < most for genre in genres[item]):
            kept.append(item)
    return kept


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 3), st.sampled_from([item_knn, ease]))
def test_a_limit_keeps_the_best_similar_items_of_all(seed, n, most, method):
    """A limit would show items that are less alike, and more or fewer of them, than the whole catalogue has."""
    random, genres, ratings = _random_items(seed, 24)
    items = pl.Series(range(24), dtype=pl.Int32)
    catalogue = pl.DataFrame({"item": items, "item_id": items.cast(pl.String), "title": "", "genres": genres})
    chosen = {item_knn: item_knn.ItemKNNSettings, ease: ease.EASESettings}[method]()
    fitted = ServingModel("", {"m": method.fit(lazy(ratings), index=Index(15, 24, ""), settings=chosen)}, "")
    allowed = random.random(24) < 0.9

    def lists(model: ServingModel, n: int, limits: Limits | None = None) -> list[list[tuple[int, str]]]:
        found = similar_items(model, catalogue, items.to_numpy(), n=n, allowed=allowed, limits=limits)
        own = found.with_columns(pl.col("item_id", "similar_item_id").cast(int)).sort("rank")
        return [own.filter(item_id=item).select("similar_item_id", "by").rows() for item in range(24)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rankings, "_CANDIDATES_PER_PLACE", 1)
        limited = lists(fitted, n, Rules(max_per_value={"genres": most}).limits(catalogue))
    for own, whole, alike in zip(limited, lists(fitted, 24), lists(_model("popularity"), 24), strict=True):
        by_model, by_attributes = [item for item, by in whole if by == "ratings"], [item for item, _ in alike]
        for depth in (2 * n, 24):
            in_turn = [*dict.fromkeys(by_model[:depth] + by_attributes[:depth])]
            expected = _greedy(in_turn, genres, most, n)
            if len(expected) == n:
                break
        near = set(by_model[:depth])
        assert own == [(item, "ratings" if item in near else "attributes") for item in expected]


def test_items_that_came_after_the_model_are_found_by_attributes():
    """Between an ingest and a refresh `similar` would fail at each new item."""
    later = _catalogue().with_columns(item=pl.col("item") + N_ITEMS, item_id="later" + pl.col("item_id"))
    both = pl.concat([_catalogue(), later])
    asked = np.array([N_ITEMS], np.int32)
    found = similar_items(_model("ease"), both, asked, n=5, allowed=np.ones(len(both), bool))
    assert set(found["item_id"]) == {"lateri0"} and len(found) == 5 and set(found["by"]) == {"attributes"}


def test_a_value_of_one_item_and_plain_numbers_say_nothing():
    """A title, a number or a key of the source would make items alike."""
    table = _catalogue().with_columns(key=pl.col("item_id") + "-key", price=pl.lit(3.5), kind=pl.lit("film"))
    vectors = attribute_vectors(table.with_columns(genres=pl.lit(None, pl.List(pl.String))))
    assert vectors.nnz == 0 or not vectors.toarray().any(), "what all items share says nothing either"
    alike = (attribute_vectors(table) @ attribute_vectors(table).T).toarray()
    assert alike[0, 2] == pytest.approx(1) and alike[0, 1] == 0


def _lists(places: int, n: int = 4, **rules) -> pl.DataFrame:
    ratings, users = lazy(_ratings()), np.arange(41, dtype=np.int32)
    counts = np.bincount(_ratings()["item"].to_numpy(), minlength=N_ITEMS)
    limits = rules.get("limits")
    best = top_n(of_popularity(counts), ratings, users, n=n, limits=limits)
    new = NewItems.of(_catalogue(), ratings)
    found = new.placed(best, ratings, users, n=n, places=places, **{"allowed": EVERYTHING, **rules})
    assert found.drop("is_new").equals(best) or places
    because = reasons(found.filter("is_new"), ratings, new.ranker)
    assert set(because["user"]) == (set(range(40)) if found["is_new"].any() else set())
    return found


def test_new_items_get_the_places_that_are_theirs():
    """What nobody has rated yet would never be shown, so that nobody could ever rate it; or push all else out."""
    without, found = _lists(0), _lists(1)
    assert not without["is_new"].any()
    assert found.group_by("user").len()["len"].to_list() == without.group_by("user").len()["len"].to_list()
    new = found.filter("is_new")
    assert new["rank"].to_list() == [4] * 41 and new["score"].is_null().all()
    of_users = new.filter(pl.col("user") < 40)
    assert (of_users["item"] % 2 == of_users["user"] % 2).all(), "by the user's own taste"
    first = found.filter(~pl.col("is_new"), pl.col("rank") < 4).drop("is_new")
    assert first.equals(without.filter(pl.col("rank") < 4).drop("is_new"))


def test_new_items_obey_the_rules():
    """A new item that is not to be shown would come in by the back door."""
    allowed = EVERYTHING.copy()
    allowed[sorted(NEW)] = False
    assert not _lists(1, allowed=allowed)["is_new"].any()
    values = sparse.csr_array(np.eye(2)[np.arange(N_ITEMS) % 2])
    found = _lists(1, limits=Limits(values, np.array([2, 2])))
    held = found.group_by("user", pl.col("item") % 2).len()
    assert held["len"].max() <= 2 and found["is_new"].any()


def _with_new(best: list[tuple[int, float | None]], genres: list[list[str]], most: int, **sizes: int) -> list:
    """Item and is_new of one list with a limit per genre. The user likes item 0; items without a score are new."""
    known = [item for item, score in best if score is not None]
    items = pl.Series(range(len(genres)), dtype=pl.Int32)
    catalogue = pl.DataFrame({"item": items, "item_id": items.cast(pl.String), "genres": genres})
    rated = pl.DataFrame({"user": [0, *[1] * len(known)], "item": [0, *known]}).with_columns(rating=pl.lit(5.0))
    rows = [(0, rank, item, score) for rank, (item, score) in enumerate(best, 1)]
    schema = {"user": pl.Int32, "rank": pl.Int32, "item": pl.Int32, "score": pl.Float64}
    found = NewItems.of(catalogue, lazy(rated)).placed(
        pl.DataFrame(rows, schema=schema, orient="row"),
        lazy(rated.filter(user=0)),
        np.array([0], np.int32),
        allowed=items.to_numpy() > 0,
        limits=Rules(max_per_value={"genres": most} if most else {}).limits(catalogue),
        **sizes,
    )
    assert found["rank"].to_list() == list(range(1, len(found) + 1))
    return found.select("item", "is_new").rows()


DRAMAS = [*[["drama"]] * 7, ["war"]]


def test_limits_and_new_items_shorten_no_list():
    """With both rules at once, users would get short lists, or none, although enough items may be shown."""
    unscored = [(item, None) for item in range(2, 7)]
    found = _with_new([(1, 2.0), *unscored], DRAMAS, 9, n=6, places=2)
    assert found == [(1, False), (4, False), (5, False), (6, False), (2, True), (3, True)]
    assert len(_with_new(unscored, DRAMAS, 9, n=5, places=2)) == 5
    assert _with_new([], DRAMAS, 9, n=5, places=2) == [(1, True), (2, True)], "all came after the model"
    # The list holds the new item 2, which is nothing like what the user likes, and so keeps its place.
    genres = [["drama"], ["crime"], ["war"], ["drama", "war"]]
    assert _with_new([(1, 2.0), (2, None)], genres, 1, n=3, places=1) == [(1, False), (2, False)]
    # The new item, 3, would push two old ones out.
    genres = [["drama", "war"], ["drama"], ["war"], ["drama", "war"], ["crime"]]
    assert _with_new([(1, 3.0), (2, 2.0)], genres, 1, n=2, places=2) == [(1, False), (2, False)]


def test_a_new_item_that_fits_is_found_behind_many_that_do_not():
    """A list full of one genre would never get a new item, because the nearest ones are of the same genre."""
    genres = [["drama", "long"], *[["drama"]] * 12, *[["long"]] * 48]
    assert _with_new([(1, 3.0), (2, 2.0)], genres, 2, n=3, places=1) == [(1, False), (2, False), (13, True)]


def test_a_limit_looks_at_few_items_of_a_large_catalogue(monkeypatch):
    """Under a limit, time and memory for lists would grow with the square of the catalogue."""
    looked_at, kept = list[int](), Limits.kept

    def counting(limits: Limits, items: np.ndarray, *more) -> list[int]:
        looked_at.append(len(items))
        return kept(limits, items, *more)

    monkeypatch.setattr(Limits, "kept", counting)
    genres = [["drama", "long"], *[["drama"]] * 300, *[["long"]] * 20]
    assert _with_new([(1, 3.0), (2, 2.0)], genres, 2, n=3, places=1) == [(1, False), (2, False), (301, True)]
    catalogue = pl.DataFrame({"item": range(321), "item_id": map(str, range(321)), "title": "", "genres": genres})
    limits, every = Rules(max_per_value={"genres": 2}).limits(catalogue), np.ones(321, bool)
    found = similar_items(_model("popularity"), catalogue, np.array([0]), n=4, allowed=every, limits=limits)
    assert found.sort("rank")["similar_item_id"].to_list() == ["301", "302", "1", "2"]
    assert max(looked_at) <= 4 * 20


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 3), st.integers(1, 6), st.floats(0, 1))
def test_the_new_items_of_a_list_are_the_nearest_of_all_that_fit(seed, n, most, places, may_share):
    """Under a limit, users would get other new items than the nearest ones, in other places, or none."""
    random, genres, ratings = _random_items(seed, 24)
    items = pl.Series(range(24), dtype=pl.Int32)
    catalogue = pl.DataFrame({"item": items, "item_id": items.cast(pl.String), "genres": genres})
    limits, allowed = Rules(max_per_value={"genres": most}).limits(catalogue), random.random(24) < may_share
    rated, users, new = lazy(ratings), np.arange(16, dtype=np.int32), NewItems.of(catalogue, lazy(ratings))
    counts = np.bincount(ratings["item"].to_numpy(), minlength=24)
    best = top_n(of_popularity(counts), rated, users, n=n, allowed=allowed, limits=limits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rankings, "_CANDIDATES_PER_PLACE", 1)
        found = new.placed(best, rated, users, n=n, places=places, allowed=allowed, limits=limits)
    alike = top_n(new.ranker, rated, users, n=24, allowed=allowed & new.is_new).filter(pl.col("score") > 0)
    for user in users.tolist():
        old, near = (table.filter(user=user).sort("rank")["item"].to_list() for table in (best, alike))
        first = [item for item in old if item not in near][: max(n - places, 0)]
        fitting = _greedy([*first, *near], genres, most, len(first) + min(places, n))[len(first) :]
        # No list gets shorter.
        for n_new in range(len(fitting), -1, -1):
            kept = _greedy([*dict.fromkeys([*first, *fitting[:n_new], *old])], genres, most, n)
            if len(kept) >= len(old):
                break
        is_new = [item in fitting[:n_new] for item in kept]
        expected = sorted(zip(is_new, range(len(kept)), kept, strict=True))
        own = found.filter(user=user).sort("rank")
        assert own.select("item", "is_new").rows() == [(item, new) for new, _, item in expected]


def test_no_list_is_longer_than_asked_for():
    """Who asks for one item would get as many as new items have places."""
    assert _with_new([(1, 2.0)], DRAMAS, 0, n=1, places=5) == [(2, True)]


# In a home


def _ok(*words: object) -> str:
    """What a command that succeeds prints."""
    ran = invoke(*words)
    assert ran.exit_code == 0, ran.output
    return ran.stdout


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Home:
    """A home whose served model is the blend, without the steps that are not needed for lists. Read only."""
    home = Home(tmp_path_factory.mktemp("similar") / "home")
    home.prepare()
    home.settings_file.write_text(FAST_SETTINGS)
    made_up().write(home.landing / "first")
    _ok("backfill", "first", "--home", home.path)
    _serve(home)
    return home


def _serve(home: Home) -> None:
    """Fit the blend on the present ratings, and make all lists."""
    for asset in ("user_features", "user_clusters"):
        assert materialize(home, asset).success
    store = AssetStore(home.assets)
    names = ("users", "items", "user_features", "user_clusters", "ratings")
    tables = {name: scan(store.current([name])) for name in names}
    fitter = ModelFitter(
        {**tables, "train_ratings": tables["ratings"]},
        Settings.load(home).model_dump(),
    )
    fitted = replace(serving.fit("blend", fitter), audience=Audience.of(tables))
    version = store.new_version(["serving_model"], None, "by-hand")
    fitted.save(version)
    store.switch(version)
    for asset in ("recommendations", "similar_items"):
        assert materialize(home, asset).success


def test_similar_items_are_shown_by_id_and_by_title(served, monkeypatch):
    """Who knows a title and no id could not ask, or would be shown other items than the table holds."""
    at = ("--home", served.path)
    stored = table(served, "similar_items")
    assert set(stored["item_id"]) == set(table(served, "items")["item_id"])
    row = table(served, "items").row(3, named=True)
    own = stored.filter(item_id=row["item_id"]).sort("rank")
    assert len(own) == 10 and row["item_id"] not in set(own["similar_item_id"])
    for name in (row["item_id"], str(row["title"]).upper()):
        told = json.loads(_ok("similar", name, "--json", *at))
        assert [each["item_id"] for each in told["items"]] == own["similar_item_id"].to_list()
    assert "Story" in _ok("similar", row["item_id"], "--top", 2, *at)
    refused = invoke("similar", "no such item", *at)
    assert refused.exit_code == 1 and "There is no item with the id" in refused.stderr.replace("\n", " ")
    first = own["similar_item_id"][0]
    monkeypatch.setenv("RECSYS_SERVING__WHERE", f"item_id <> '{first}'")
    assert first not in [each["item_id"] for each in json.loads(_ok("similar", row["item_id"], "--json", *at))["items"]]


def test_lists_are_checked_by_the_items_that_were_blocked_when_they_were_made(served, tmp_path):
    """An item that is blocked or unblocked while a run is at work fails the run, although its lists are right."""
    home = copied(served, tmp_path / "home")
    stored = Stored(AssetStore(home.assets), Settings.load(home), kept_kind(home))
    lists = ("recommendations", "similar_items")
    shown = table(home, "recommendations")["item_id"][0]
    changed_blocked(home, lambda _: frozenset({shown}))
    assert all(look(stored, dg.AssetKey(name), {}).is_good for name in lists)
    assert all(materialize(home, name).success for name in lists)
    changed_blocked(home, lambda _: frozenset())
    assert all(look(stored, dg.AssetKey(name), {}).is_good for name in lists)


def test_a_new_item_gets_its_place_as_soon_as_it_has_landed(served, tmp_path, monkeypatch):
    """What is new in the catalogue would not be shown to anybody until somebody has rated it."""
    home = copied(served, tmp_path / "home")
    (home.landing / "new.csv").write_text(f"item_id,title,genres\n9001,Brand New,{made_up().items['genre'][0]}\n")
    _ok("backfill", "new.csv", "--home", home.path)

    def shown(*options: object) -> list[dict]:
        return json.loads(_ok("recommend", "1", "--json", "--home", home.path, *options))["items"]

    before = [each["item_id"] for each in shown()]
    assert "9001" not in before
    monkeypatch.setenv("RECSYS_SERVING__EXPLORE", "1")
    listed = shown()
    assert [each["item_id"] for each in listed] == [*before[:-1], "9001"]
    assert listed[-1]["new"] and listed[-1]["score"] is None and listed[-1]["because"]
    assert [each["item_id"] for each in shown("-n", 3)] == before[:3], "the model's own best places stay its own"
    alike = json.loads(_ok("similar", "9001", "--json", "--home", home.path))["items"]
    assert alike and {each["by"] for each in alike} == {"attributes"}
    monkeypatch.setenv("RECSYS_SERVING__EXPLORE", "0")
    monkeypatch.setenv("RECSYS_SERVING__WHERE", "item_id = '9001'")
    for who, named in (("--newcomer", "a new user"), ("1", "user 1")):
        told = _ok("recommend", who, "--home", home.path)
        assert f"may still be shown to {named} (1) came after the model was fitted" in told and "has rated" not in told


def test_one_user_is_recommended_what_the_table_of_all_lists_holds(served, tmp_path, monkeypatch):
    """`recommend` would show other items, or other reasons, than the lists that an application reads."""
    home = copied(served, tmp_path / "home")
    more = made_up(n_users=6, n_items=44, first_user=500, seed=3)
    rated = more.ratings.filter(pl.col("item_id") <= 40, pl.col("user_id") < 505)
    replace(more, ratings=rated).write(home.landing / "more")
    _ok("backfill", "more", "--home", home.path)
    rules = {"N": "8", "MAX_PER_VALUE": '{"genres": 5}', "EXPLORE": "2", "EXCLUDE_RATED_DAYS": "150"}
    for name, value in (rules | {"WHERE": "year > 1952"}).items():
        monkeypatch.setenv(f"RECSYS_SERVING__{name}", value)
    _serve(home)
    columns = ("rank", "item_id", "title", "score", "because")
    stored, rows = table(home, "recommendations").sort("rank"), list[dict]()
    for user in ("1", "2", "57", "503", "505"):
        own = recommended(Reader(home), user, 8).rows
        rows += own
        # The scores of one user and of many are rounded differently.
        assert_frame_equal(
            pl.DataFrame(own).select(columns), stored.filter(user_id=user).select(columns), check_dtypes=False
        )
        assert len(own) == 8 and all(row["new"] == (row["score"] is None) for row in own)
    assert {bool(row["because"]) for row in rows} == {row["new"] for row in rows} == {False, True}


def test_days_are_counted_back_from_the_latest_rating_of_the_home(served, tmp_path, monkeypatch):
    """While the models are older than the data, `recommend` would leave out what all other lists show again."""
    home = copied(served, tmp_path / "home")
    monkeypatch.setenv("RECSYS_SERVING__EXCLUDE_RATED_DAYS", "200")
    asked = ("recommend", "1", "-n", 40, "--json", "--home", home.path)
    assert len(json.loads(_ok(*asked))["items"]) < 40
    # All ratings are of the first 190 days; this one, by a user whom the model does not know, is of day 400.
    (home.landing / "later.csv").write_text(f"user_id,item_id,rating,timestamp\n901,1,4,{880_000_000 + 400 * 86_400}\n")
    _ok("backfill", "later.csv", "--home", home.path)
    assert len(json.loads(_ok(*asked))["items"]) == 40


def test_the_cost_of_a_limit_is_told_with_the_settings_that_it_is_of(served, tmp_path, monkeypatch):
    """The cost would be that of other lists than the served ones, unseen, or end in an error of Python."""
    home = copied(served, tmp_path / "home")
    for asset in ("train_ratings", "test_ratings"):
        assert materialize(home, asset).success
    store, parameters = AssetStore(home.assets), Settings.load(home).model_dump()
    tables = {name: scan(store.current([name])) for name in ("users", "items", "user_features", "train_ratings")}
    fitter = ModelFitter(tables, parameters)
    models = dict(serving.fit("blend", fitter).models)
    # The stored weights are those of settings that have been taken away since.
    models["blend_weights"] = replace(models["blend_weights"], ease_weight=0.5)
    index, params = fitter.index, {"implicitPrefs": True, "alpha": 2.0, "regParam": 0.1, "neutral": 0.0}
    factors = [np.ones((n, 2), np.float32) for n in (index.n_users, index.n_items)]
    known = [np.ones(n, bool) for n in (index.n_users, index.n_items)]
    models["implicit_als_model"] = ALSModel(*factors, *known, params, index.fingerprint)

    def fitted_in(run_id: str) -> None:
        for name, model in models.items():
            version = store.new_version([name], None, run_id)
            model.save(version)
            store.switch(version)

    def decided(verdict: Verdict, **weights: float) -> None:
        blend = {**parameters["blend"], **weights}
        judged = Configuration.of({**parameters, "blend": blend}, rating_model=None, ranking_model="blend")
        record.add(judged, Decision(verdict, "by hand"), run_id=f"{verdict}-run")

    record = Promotions(home.promotions)
    fitted_in("promoted-run")
    monkeypatch.setenv("RECSYS_SERVING__MAX_PER_VALUE", '{"genres": 3}')
    other = "The served model may have other settings."
    assert other in _ok("rules", "--home", home.path), "the decision of the run is not known"
    decided("promoted")
    told = _ok("rules", "--home", home.path)
    assert "NDCG at 10" in told and "max_per_value" in told and other not in told
    assert "explore" not in told and "liked in these places" not in told
    monkeypatch.setenv("RECSYS_SERVING__EXPLORE", "2")
    told = _ok("rules", "--home", home.path)
    assert re.search(r"(?m)^explore +0\.\d{4} +0\.\d{4} +[+-]0\.\d{4} ", told), told
    assert "Each rule is added" in told and re.search(r"(?m)^liked in these places +\d+ of \d+", told), told
    monkeypatch.delenv("RECSYS_SERVING__EXPLORE")
    monkeypatch.setenv("RECSYS_BLEND__PRIOR_RATINGS", "3")
    assert other not in _ok("rules", "--home", home.path), "settings may change after the fit"
    monkeypatch.delenv("RECSYS_BLEND__PRIOR_RATINGS")
    fitted_in("kept-run")
    decided("kept", prior_ratings=3)
    assert other in _ok("rules", "--home", home.path), "settings may be set back after the fit"
