"""What users are shown between the arrival of data and the next models."""

import re
import shutil
from pathlib import Path

import polars as pl
import psycopg2
import pytest

from recsys_assets.home.exclusions import forget
from recsys_assets.home.layout import Home
from recsys_assets.home.versions import TABLE_FILE, AssetStore
from recsys_assets.recommender.ranking.rules import RuleError
from recsys_assets_tests.conftest import invoke
from recsys_assets_tests.made_up import MadeUp, made_up
from recsys_assets_tests.postgres import postgres
from recsys_assets_tests.running import copied, files, materialize, table

NEW_USER, TWIN = "503", "517"


def ok(*words: object) -> str:
    """What a command that succeeds prints."""
    ran = invoke(*words)
    assert ran.exit_code == 0, ran.output
    return ran.stdout


def shown(home: Home, user: str, *options: object) -> list[str]:
    """The ids of the items that a user is recommended."""
    listed = ok("recommend", user, "--home", home.path, *options).splitlines()[1:]
    return [line.split()[1] for line in listed if line.split()[0].isdigit()]


@pytest.fixture(scope="module")
def arriving(small_data) -> MadeUp:
    """Six new users with ratings of items that are there and of four more; and one who is like user 17 in all."""
    new = made_up(n_users=6, n_items=44, first_user=500, seed=3)
    like_17 = (
        table.filter(user_id=17).with_columns(user_id=pl.lit(int(TWIN), table.schema["user_id"]))
        for table in (small_data.ratings, small_data.users)
    )
    ratings, users = (pl.concat(pair) for pair in zip((new.ratings, new.users), like_17, strict=True))
    return MadeUp(ratings, users, new.items)


@pytest.fixture(scope="module")
def ingested(materialized_home, arriving, tmp_path_factory) -> Home:
    """The shared home after a batch of new users and items was ingested and nothing refreshed. Read only."""
    home = copied(materialized_home, tmp_path_factory.mktemp("served") / "home")
    arriving.write(home.landing / "later")
    ok("backfill", "later", "--home", home.path)
    assert NEW_USER in set(table(home, "users")["user_id"])
    return home


def test_old_users_keep_their_lists_while_new_models_are_not_there(materialized_home, ingested):
    """From the arrival of a batch until the end of a refresh nobody could be recommended anything."""
    for user in ("1", "17", "60"):
        assert shown(ingested, user) == shown(materialized_home, user) != []
    assert "The models of 20" in ok("recommend", "17", "--home", ingested.path)
    assert "The models of" not in ok("recommend", "17", "--home", materialized_home.path)


def test_new_users_get_a_list_at_once(ingested, arriving):
    """Who has come since the last refresh would be shown an error, what it has rated, or what others watch."""
    assert f"do not know user {NEW_USER}" in ok("recommend", NEW_USER, "--home", ingested.path)
    ids = shown(ingested, NEW_USER)
    assert len(ids) == 10 and not {*map(int, ids)} & {*arriving.ratings.filter(user_id=int(NEW_USER))["item_id"]}
    assert shown(ingested, TWIN, "-n", 5) == shown(ingested, "17", "-n", 5)


def test_every_look_works_between_ingest_and_refresh(ingested, tmp_path):
    """After each batch users, items, segments, scores or exports would be errors until a refresh has ended."""
    for words in (
        ("user", NEW_USER),
        ("user", "17"),
        ("item", "44"),
        ("items", "story 4"),
        ("segment", "0"),
        ("scores",),
    ):
        assert ok(*words, "--home", ingested.path)
    for asset in ("recommendations", "ratings", "user_segments", "predictions/top_n/ease"):
        ok("export", asset, tmp_path / "out.csv", "--home", ingested.path)
    ok("export", "recommendations", tmp_path / "lists.csv", "--home", ingested.path)
    assert pl.read_csv(tmp_path / "lists.csv")["user_id"].n_unique() == 60


def renumbered(home: Home, without: str) -> None:
    """As a merge leaves a home that died before `ratings`: users without one of them, and the others numbered anew."""
    store, users = AssetStore(home.assets), table(home, "users")
    version = store.new_version(["users"], None, "renumber")
    kept = users.filter(pl.col("user_id") != without).drop("user").with_row_index("user")
    kept.with_columns(pl.col("user").cast(pl.Int32)).select(users.columns).write_parquet(version / TABLE_FILE)
    store.switch(version)


def test_lists_outlive_a_merge_that_numbers_users_anew(materialized_home, tmp_path: Path):
    """While `forget` or `remove` is at work everybody would get an error, or the list of another user."""
    home = copied(materialized_home, tmp_path / "home")
    before = {user: shown(home, user) for user in ("1", "9", "60")}
    clusters = dict(_exported(home, "user_clusters", tmp_path).select("user_id", "cluster").iter_rows())
    renumbered(home, without="7")
    assert {user: shown(home, user) for user in before} == before
    assert "rating" in ok("user", "60", "--home", home.path).lower()
    del clusters[7]
    assert dict(_exported(home, "user_clusters", tmp_path).select("user_id", "cluster").iter_rows()) == clusters
    # Steps of a refresh that come before the model are made already, or being made.
    for asset in ("user_features", "user_clusters"):
        shutil.rmtree(AssetStore(home.assets).folder([asset]))
    assert {user: shown(home, user) for user in before} == before


def _exported(home: Home, asset: str, folder: Path) -> pl.DataFrame:
    ok("export", asset, folder / "out.csv", "--home", home.path)
    return pl.read_csv(folder / "out.csv")


def test_who_is_to_be_forgotten_is_served_no_more(materialized_home, tmp_path):
    """Between `forget` and the end of its run, or if that fails, the person would still be shown and handed out."""
    home = copied(materialized_home, tmp_path / "home")
    ratings = table(home, "ratings")
    (number,) = table(home, "users").filter(user_id="7")["user"]
    forget(home, "7")
    for command in ("recommend", "user"):
        refused = invoke(command, "7", "--home", home.path)
        assert refused.exit_code == 1 and "There is no user" in refused.stderr and " 7," not in refused.stderr
    for asset in ("recommendations", "users", "user_segments", "raw_users"):
        assert 7 not in set(_exported(home, asset, tmp_path)["user_id"]), asset
    assert len(_exported(home, "ratings", tmp_path)) == len(ratings.filter(pl.col("user") != number)) < len(ratings)
    assert shown(home, "17") == shown(materialized_home, "17")


def test_models_of_an_earlier_version_are_served(materialized_home, tmp_path):
    """After an update of the package nobody would be recommended anything until a refresh has ended."""
    home = copied(materialized_home, tmp_path / "home")
    version = AssetStore(home.assets).current(["serving_model"])
    shutil.rmtree(version / "audience")
    (version / "made_with.json").unlink()
    assert shown(home, "17") == shown(materialized_home, "17")
    renumbered(home, without="7")
    refused = invoke("recommend", "17", "--home", home.path)
    assert refused.exit_code == 1 and "serving_model was fitted with another id map" in refused.stderr


# Empty lists, and lists for nobody


def test_who_has_rated_everything_is_told_so(materialized_home, tmp_path):
    """An empty table says nothing, and looks like a fault."""
    home = copied(materialized_home, tmp_path / "home")
    store, ratings = AssetStore(home.assets), table(home, "ratings")
    own = ratings.filter(user=0)
    missing = table(home, "items").select("item").join(own, on="item", how="anti")
    rest = own.head(1).drop("item").join(missing, how="cross").select(ratings.columns)
    pl.concat([ratings, rest]).write_parquet(store.current(["ratings"]) / TABLE_FILE)
    told = ok("recommend", "1", "--home", home.path)
    assert told.strip() == "User 1 has rated all 40 items of the catalogue: nothing is left to recommend."


def test_what_somebody_new_is_shown_can_be_seen(materialized_home):
    """Nobody could look at the list that most visitors see, and an unknown id ended in nothing."""
    refused = invoke("recommend", "nobody", "--home", materialized_home.path)
    assert refused.exit_code == 1 and "recsys-assets recommend --newcomer" in refused.stderr
    listed = ok("recommend", "--newcomer", "-n", 3, "--home", materialized_home.path).splitlines()
    assert len(listed) == 4 and all("liked by people with the same attributes" in line for line in listed[1:])
    for words in ((), ("1", "--newcomer")):
        assert invoke("recommend", *words, "--home", materialized_home.path).exit_code == 2


# Rules for lists


def test_rules_change_every_list_without_a_fit(materialized_home, tmp_path):
    """What is sold out would be shown until the next fit, or the table of all lists would differ from one's own."""
    home = copied(materialized_home, tmp_path / "home")
    models = {name: files(home, name) for name in ("serving_model", "user_clusters")}
    before = table(home, "recommendations")
    with home.settings_file.open("a") as settings:
        settings.write("\n[serving]\nwhere = \"year >= 1960 and array_contains(genres, 'Action')\"\nn = 5\n")
    items = table(home, "items")
    may = set(items.filter(pl.col("year") >= 1960, pl.col("genres").list.contains("Action"))["item_id"])
    assert set(shown(home, "2")) <= may and len(shown(home, "2")) > 0
    assert "have lists" in ok("recommend", "--everybody", "--home", home.path)
    lists = table(home, "recommendations")
    assert set(lists["item_id"]) <= may and not set(before["item_id"]) <= may
    for user in ("1", "2", "60"):
        assert lists.filter(user_id=user).sort("rank")["item_id"].to_list() == shown(home, user, "-n", 5)
    assert {*shown(home, "2", "-n", 40)} | _rated(home, "2") >= may
    assert {name: files(home, name) for name in models} == models


def _rated(home: Home, user: str) -> set[str]:
    own = table(home, "ratings").join(table(home, "users").filter(user_id=user), on="user")
    return set(own.join(table(home, "items"), on="item")["item_id"])


def test_a_rule_that_leaves_nothing_keeps_the_old_lists(materialized_home, tmp_path, monkeypatch):
    """One slip in a condition would leave every user without a list."""
    home = copied(materialized_home, tmp_path / "home")
    before = table(home, "recommendations")
    for where, told in (("year > 2100", "leaves none of the 40 items"), ("stock > 0", "The columns of items are")):
        monkeypatch.setenv("RECSYS_SERVING__WHERE", where)
        for words in (("recommend", "1"), ("recommend", "--everybody"), ("run",)):
            refused = invoke(*words, "--home", home.path)
            assert refused.exit_code == 1 and told in refused.stderr.replace("\n", " "), refused.output
        assert materialize_fails(home)
    assert table(home, "recommendations").equals(before)


def materialize_fails(home: Home) -> bool:
    """Whether the asset itself refuses the rules, as in a run that a schedule has started."""
    with pytest.raises(RuleError):
        materialize(home, "recommendations")
    return True


def test_what_was_rated_may_come_back(materialized_home, tmp_path, monkeypatch):
    """Who buys the same again could never be offered it."""
    home = copied(materialized_home, tmp_path / "home")
    monkeypatch.setenv("RECSYS_SERVING__EXCLUDE_RATED", "false")
    assert len(shown(home, "1", "-n", 40)) == 40 and _rated(home, "1") & {*shown(home, "1")}
    ok("recommend", "--everybody", "--home", home.path)
    assert table(home, "recommendations").filter(user_id="1").sort("rank")["item_id"].to_list() == shown(home, "1")


def test_lists_go_to_postgresql_as_the_page_says(materialized_home, tmp_path, monkeypatch):
    """An application would read half of the lists or stale ones, or the lines of the page would fail when copied."""
    page = Path(__file__).parent.parent / "docs" / "how-to" / "use-recommendations.md"
    lines = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)[0]
    monkeypatch.chdir(tmp_path)
    ok("export", "recommendations", "lists.parquet", "--home", materialized_home.path)
    exported = pl.read_parquet("lists.parquet")
    with postgres() as server:
        url = server.url("shop").replace("+psycopg2", "")
        monkeypatch.setenv("SHOP_DATABASE", url)
        for lists in (exported, exported.filter(pl.col("rank") <= 3)):
            lists.write_parquet("lists.parquet")
            exec(lines, {})
            with psycopg2.connect(url) as database, database.cursor() as cursor:
                cursor.execute("SELECT user_id, rank, item_id FROM recommendations")
                there = cursor.fetchall()
            assert sorted(there) == sorted(lists.select("user_id", "rank", "item_id").rows())
