from collections.abc import Callable
from typing import Any

import dagster as dg
import narwhals as nw
import numpy as np
import polars as pl
import pytest

from recsys_assets.home.data_kind import kept_kind
from recsys_assets.home.layout import Home
from recsys_assets.home.running import SparkSettings
from recsys_assets.home.settings import Settings
from recsys_assets.home.versions import TABLE_FILE, AssetStore
from recsys_assets.orchestration.assets import ASSETS, study
from recsys_assets.orchestration.assets.models import MODEL_TYPES
from recsys_assets.orchestration.build import build_defs
from recsys_assets.orchestration.checks import CHECKS
from recsys_assets.orchestration.checks.results import check_result, last_good_facts
from recsys_assets.orchestration.checks.rules import Stored, check_keys, look, parameters
from recsys_assets.orchestration.io_managers import table_of
from recsys_assets.orchestration.resources import spark_resource
from recsys_assets.recommender.data.frames import conform, lazy, to_polars
from recsys_assets.recommender.data.tables import RATINGS, TABLES
from recsys_assets.recommender.evaluation import quality
from recsys_assets.recommender.evaluation.quality import Finding
from recsys_assets_tests.running import copied, files, table

N_USERS, N_ITEMS, N_SHOWN = 4, 6, 3
SIZES = {"users": N_USERS, "items": N_ITEMS}
CHECK = dg.AssetCheckKey(dg.AssetKey("ratings"), "no_sudden_drop")
# The fourth user has rated all items but one, so that only one can be recommended.
RATED = [(0, 0), (0, 1), (1, 2), *((3, item) for item in range(N_ITEMS - 1))]


def ratings() -> pl.DataFrame:
    """A sound table ratings, one day apart."""
    n = len(RATED)
    frame = pl.DataFrame(
        {
            "user": [user for user, _ in RATED],
            "item": [item for _, item in RATED],
            "rating": [1.0 + position % 5 for position in range(n)],
            "timestamp": pl.Series(range(n)) * 86_400_000_000,
            "batch": [0] * n,
            "row": list(range(n)),
        }
    )
    return to_polars(conform(lazy(frame.with_columns(pl.col("timestamp").cast(pl.Datetime("us", "UTC")))), RATINGS))


def recommendations() -> pl.DataFrame:
    """Sound recommendations for those ratings: min(3, unrated items) for each user."""
    rows = [
        (f"u{user}", rank, f"m{item}", "title", 1.0, [])
        for user in range(N_USERS)
        for rank, item in enumerate([m for m in range(N_ITEMS) if (user, m) not in RATED][:N_SHOWN], 1)
    ]
    declared = TABLES["recommendations"]
    frame = pl.DataFrame(rows, schema=list(declared.columns), orient="row")
    return to_polars(conform(lazy(frame), declared))


def scores() -> pl.DataFrame:
    """Sound scores: two models between random and the upper bound."""
    rows = [
        ("time_cut", model, "all", "top5pct_rating", value, 9, value - 0.1, value + 0.1)
        for model, value in {"random": 3.5, "item_mean": 4.0, "als": 4.2, "upper_bound": 4.9}.items()
    ]
    return pl.DataFrame(rows, schema=list(TABLES["evaluation_scores"].columns), orient="row")


def broken(findings: list[Finding]) -> dict[str, bool]:
    """The rules that do not hold, and whether each is severe."""
    return {finding.rule: finding.severe for finding in findings if not finding.passed}


def set_first(column: str, value: Any) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """Plants a value in the first row."""
    here = pl.int_range(pl.len()) == 0
    return lambda frame: frame.with_columns(
        pl.when(here).then(pl.lit(value, dtype=frame[column].dtype)).otherwise(pl.col(column)).alias(column)
    )


# Rules that follow from the declaration


@pytest.mark.parametrize(
    ("rule", "plant"),
    [
        ("columns and types", lambda frame: frame.with_columns(pl.col("rating").cast(pl.Float64))),
        ("columns and types", lambda frame: frame.drop("timestamp")),
        ("no nulls", set_first("timestamp", None)),
        ("finite numbers", set_first("rating", float("nan"))),
        ("finite numbers", set_first("rating", float("inf"))),
        ("values in range", set_first("row", -1)),
        ("indices of known rows", set_first("user", N_USERS)),
        ("indices of known rows", set_first("item", -1)),
        ("one row per user, item", lambda frame: pl.concat([frame, frame.head(1)])),
    ],
)
def test_a_table_that_is_not_as_declared_is_seen(rule, plant):
    """Broken rows would go into every model, and nobody would be told which rule they break."""
    rows, findings = quality.schema_findings(lazy(ratings()), RATINGS, SIZES)
    assert rows == len(RATED)
    assert broken(findings) == {}
    _, findings = quality.schema_findings(lazy(plant(ratings())), RATINGS, SIZES)
    assert broken(findings) == {rule: True}


def test_nulls_are_let_through_where_they_are_declared():
    """A catalogue with an item of unknown year would stop the pipeline."""
    items = pl.DataFrame({"item": [0, 1], "item_id": ["a", "b"], "title": ["A", None], "year": [None, 1999]})
    frame = conform(
        lazy(items.with_columns(genres=pl.Series([["x"], None], dtype=pl.List(pl.String)))), TABLES["items"]
    )
    assert broken(quality.schema_findings(frame, TABLES["items"], {"items": 2})[1]) == {}


def test_every_stored_table_and_model_has_its_check(tmp_path):
    """A table added to the pipeline would never be looked at."""
    names: dict[dg.AssetKey, set[str]] = {}
    for check in CHECKS:
        for key in check.check_keys:
            names.setdefault(key.asset_key, set()).add(key.name)
    checked = {key for key, of in names.items() if of & {"columns_and_types", "finite_parameters"}}
    graph = build_defs(home=Home(tmp_path)).get_repository_def().asset_graph
    stored = {
        node.key
        for node in graph.asset_nodes
        if node.partitions_def is None and (table_of(node.key) or "model" in node.kinds)
    }
    assert stored == checked
    assert names[dg.AssetKey("items")] == {"columns_and_types", "one_row_per_key", "no_sudden_drop"}


# Rules that compare with the last good state


@pytest.mark.parametrize(("rows", "passed"), [(100, True), (200, True), (50, True), (49, False), (0, False)])
def test_a_sudden_drop_in_rows_is_seen(rows, passed):
    """Half of the ratings would vanish from all models because one file was cut off."""
    (finding,) = quality.drop_finding(rows, 100, max_drop=0.5)
    assert (finding.passed, finding.severe) == (passed, True)
    assert quality.drop_finding(rows, None, max_drop=0.5) == []


def test_a_shift_of_the_distribution_warns():
    """A source that changes its scale from 5 to 10 points would go unnoticed."""
    before = quality.rating_shares(lazy(ratings()))
    assert sum(before.values()) == pytest.approx(1)
    assert broken(quality.shift_finding(before, before, max_shift=0.1)) == {}
    doubled = quality.rating_shares(lazy(ratings().with_columns(pl.col("rating") * 2)))
    assert broken(quality.shift_finding(doubled, before, max_shift=0.1)) == {"ratings distributed as before": False}
    assert quality.shift_finding(doubled, None, max_shift=0.1) == []


def test_a_shift_among_large_counts_warns():
    """Plays of which some are counted in millions would change unnoticed, because their numbers look alike."""

    def shares(*weights: float) -> dict[str, float]:
        return quality.rating_shares(lazy(pl.DataFrame({"rating": weights})))

    before = shares(1.0, 4.5, 1_234_567.0, 1_234_568.0)
    assert before == {"1": 0.25, "4.5": 0.25, "1234567": 0.25, "1234568": 0.25}
    after = shares(1.0, 4.5, 1_234_567.0, 1_234_567.0)
    (finding,) = quality.shift_finding(after, before, max_shift=0.2)
    assert (finding.actual, finding.passed) == (0.25, False)


@pytest.mark.parametrize(("moved", "passed"), [(0.0, True), (0.24, True), (0.26, False)])
def test_segments_that_change_their_sizes_warn(moved, passed):
    """A refresh could turn the segments over, and nobody would be told."""
    shares = {"segment": [0, 1], "share": [0.5 + moved, 0.5 - moved], "name": ["A · B", "C"]}
    now = pl.DataFrame(shares | {"previous_segment": [1, 0], "previous_share": [0.5, 0.5], "previous_name": ["A", "C"]})
    (finding,) = quality.segment_shift_finding(now, max_shift=0.25)
    assert (finding.passed, finding.severe) == (passed, False)
    assert ("segment 0, A · B" in finding.detail) == (not passed)
    first = now.with_columns(previous_share=pl.lit(None, pl.Float64))
    assert quality.segment_shift_finding(first, max_shift=0.25) == []


@pytest.mark.parametrize(("rejected", "passed"), [(0, True), (1, True), (2, False)])
def test_a_batch_with_many_rejected_rows_is_seen(rejected, passed):
    """A batch of which most rows are refused would count as ingested."""
    found = quality.rejected_finding({"good": 0, "bad": rejected}, {"good": 5, "bad": 99 - rejected}, max_share=0.0102)
    assert found.passed == passed
    assert ("batch bad" in found.detail) == (not passed)


def evaluation(passed: bool, severity: dg.AssetCheckSeverity, rows: int) -> dg.AssetCheckEvaluation:
    """A result of the check as an earlier run left it."""
    finding = Finding("rule", 0, 0, 0, passed, severe=severity == dg.AssetCheckSeverity.ERROR)
    is_good = passed or severity == dg.AssetCheckSeverity.WARN
    result = check_result(CHECK, [finding], {"rows": rows} if is_good else {})
    return dg.AssetCheckEvaluation(
        asset_key=CHECK.asset_key,
        check_name=CHECK.name,
        passed=result.passed,
        severity=result.severity,
        metadata=result.metadata,
    )


def test_bad_states_are_not_what_later_ones_are_compared_with():
    """After one run on half of the data the next one would look unchanged, and pass."""
    error, warn = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN
    with dg.DagsterInstance.ephemeral() as instance:
        assert last_good_facts(instance, CHECK) == {}
        for state in (evaluation(True, error, 100), evaluation(False, warn, 90), evaluation(False, error, 10)):
            instance.report_runless_asset_event(state)
        assert last_good_facts(instance, CHECK) == {"rows": 90}


# Rules of single tables


def test_train_and_test_that_overlap_in_time_are_seen():
    """Models would be scored on a past that they have learnt the future of."""
    rows, cut = ratings(), 5
    train, test = rows.head(cut), rows.tail(len(rows) - cut)
    assert broken(quality.cut_findings(lazy(train), lazy(test), lazy(rows))) == {}
    mixed = broken(quality.cut_findings(lazy(test), lazy(train), lazy(rows)))
    assert mixed == {"training ends before the test begins": True}
    lost = broken(quality.cut_findings(lazy(train.head(2)), lazy(test), lazy(rows)))
    assert lost == {"train and test are all ratings of scored users": True}


def test_users_with_a_single_rating_each_are_told():
    """Models of latest ratings would fail one by one, each with a message of its own."""
    assert quality.histories_finding(1).passed
    found = quality.histories_finding(0)
    assert not found.passed and found.severe and "train_share" in found.detail


def test_a_model_that_is_not_finite_is_seen():
    """Predictions would be NaN, which sorts before every number."""
    factors = np.ones((3, 2))
    assert quality.finite_finding({"factors": factors}).passed
    factors[1, 1] = np.nan
    found = quality.finite_finding({"factors": factors})
    assert (found.passed, found.severe, found.detail) == (False, True, "factors: 1")


@pytest.mark.parametrize("asset", sorted(MODEL_TYPES))
def test_every_model_is_looked_through_for_numbers(materialized_home, asset):
    """A new kind of model would pass its check whatever it holds."""
    home = materialized_home
    model = MODEL_TYPES[asset].load(AssetStore(home.assets).current(dg.AssetKey.from_user_string(asset).path))
    assert sum(numbers.size for numbers in parameters(model).values())


@pytest.mark.parametrize(
    ("rule", "plant"),
    [
        ("every user has min(3, unrated) recommendations", lambda frame: frame.filter(pl.col("user_id") != "u2")),
        ("every user has min(3, unrated) recommendations", lambda frame: frame.slice(1)),
        ("recommends nothing already rated", set_first("item_id", "m0")),
        ("known users and items", set_first("item_id", "elsewhere")),
    ],
)
def test_recommendations_that_are_missing_or_rated_already_are_seen(rule, plant):
    """Users would be shown nothing, or what they know."""
    users = lazy(pl.DataFrame({"user": range(N_USERS), "user_id": [f"u{user}" for user in range(N_USERS)]}))
    items = lazy(pl.DataFrame({"item": range(N_ITEMS), "item_id": [f"m{item}" for item in range(N_ITEMS)]}))
    indices = [frame.with_columns(nw.col(name).cast(nw.Int32())) for name, frame in (("user", users), ("item", items))]

    def found(frame: pl.DataFrame) -> dict[str, bool]:
        return broken(quality.recommendation_findings(lazy(frame), *indices, lazy(ratings()), n=N_SHOWN))

    assert found(recommendations()) == {}
    assert found(plant(recommendations())) == {rule: True}


def test_lists_within_a_limit_per_value_are_whole():
    """A run would fail on right lists if an item had a genre twice, or pass if users had no list at all."""
    users = lazy(pl.DataFrame({"user": pl.Series([0, 1], dtype=pl.Int32), "user_id": ["ann", "bob"]}))
    items = {"item": pl.Series([0, 1], dtype=pl.Int32), "item_id": ["x", "y"], "genres": [["Drama", "Drama"], ["War"]]}
    shown = pl.DataFrame({"user_id": ["ann", "bob"], "rank": [1, 1], "item_id": ["x", "y"]})
    nothing = lazy(pl.DataFrame(schema={"user": pl.Int32, "item": pl.Int32}))

    def found(lists: pl.DataFrame) -> dict[str, bool]:
        given = (lazy(lists), users, lazy(pl.DataFrame(items)), nothing)
        return broken(quality.recommendation_findings(*given, n=2, most={"genres": 1}))

    assert found(shown) == {}
    assert found(shown.head(1)) == {"every user has 1 to min(2, unrated) recommendations": True}


def test_scores_outside_their_bounds_are_seen():
    """An error in the scoring would be reported as the best model ever, and a useless model as a fair one."""
    assert broken(quality.score_findings(scores())) == {}
    too_good = scores().with_columns(value=pl.when(pl.col("model") == "als").then(4.95).otherwise("value"))
    assert broken(quality.score_findings(too_good)) == {"no rating score above the upper bound": True}
    lower = pl.col("value", "high") - pl.when(pl.col("model") == "als").then(1.0).otherwise(0.0)
    assert broken(quality.score_findings(scores().with_columns(lower))) == {"no rating score below random": False}
    unbounded = scores().filter(pl.col("model") != "upper_bound")
    assert broken(quality.score_findings(unbounded)) == {"bounds beside every rating score": True}


def test_recommendations_wait_for_nothing_of_case_study_b():
    """Ratings from which nothing can be learnt of latest ratings would keep everybody's recommendations back."""
    parents = {spec.key: {dep.asset_key for dep in spec.deps} for asset in ASSETS for spec in asset.specs}
    # A step of checks comes before whatever depends on any asset of it.
    together = {
        key.asset_key: {other.asset_key for other in step.check_keys} for step in CHECKS for key in step.check_keys
    }

    def closure(start: dg.AssetKey, following: Callable[[dg.AssetKey], set[dg.AssetKey]]) -> set[dg.AssetKey]:
        found, due = set(), [start]
        while due:
            found.add(key := due.pop())
            due += following(key) - found
        return found

    awaited = closure(dg.AssetKey("recommendations"), lambda key: parents.get(key, set()) | together.get(key, set()))
    assert dg.AssetKey("als_adjusted_model") in awaited
    partition = dg.AssetKey("user_partition")
    assert not [key for key in awaited if partition in closure(key, lambda of: parents.get(of, set()))]


# In real runs


# Only made when somebody asks for a study.
STUDIED = {asset.key for asset in study.ASSETS}


def test_a_sound_run_passes_every_check_and_says_what_was_allowed(materialized_home):
    """People would learn to ignore checks that fail on good data, or could not tell how far off they are."""
    with dg.DagsterInstance.from_config(str(materialized_home.dagster)) as instance:
        for check in CHECKS:
            for key in check.check_keys:
                if key.asset_key in STUDIED:
                    continue
                record = instance.get_latest_asset_check_evaluation_record(key)
                found = record.event.dagster_event.asset_check_evaluation_data
                assert found.passed or found.severity == dg.AssetCheckSeverity.WARN, (key, found.description)
                names = " ".join(found.metadata)
                assert "actual" in names, key
                assert "threshold" in names or "rules" in names, key
                if "rules" in found.metadata:
                    for rule in found.metadata["rules"].records:
                        assert {"actual", "expected", "threshold"} <= set(rule.data), key


def run_part(home: Home, *assets: str) -> dg.ExecuteInProcessResult:
    """A run of a part of `refresh` with its checks."""
    job = build_defs(home=home).resolve_job_def("refresh")
    with dg.DagsterInstance.ephemeral() as instance:
        selection = [dg.AssetKey(asset.split("/")) for asset in assets]
        return job.execute_in_process(instance=instance, asset_selection=selection, raise_on_error=False)


def test_a_shift_of_the_segments_warns_in_a_run_as_far_as_the_settings_say(materialized_home, tmp_path):
    """The limit in the settings would be read by nobody, or stop a refresh because people's taste has changed."""
    home = copied(materialized_home, tmp_path / "home")
    text = home.settings_file.read_text().replace("n_segments = 2", "n_segments = 3")
    for limit, passed in ((0.0, False), (1.0, True)):
        home.settings_file.write_text(f"{text}\n[checks]\nmax_segment_shift = {limit}\n")
        ran = run_part(home, "segment_model", "user_segments", "segment_shares")
        assert ran.success
        (found,) = [result for result in ran.get_asset_check_evaluations() if result.check_name == "segments_as_before"]
        assert found.passed == passed
        assert passed or found.severity == dg.AssetCheckSeverity.WARN


def test_an_error_stops_what_follows_in_the_run(materialized_home, tmp_path):
    """Models would be fitted on broken rows, and recommendations made from them, with a red mark beside it."""
    home = copied(materialized_home, tmp_path / "home")
    before = files(home, "item_mean_model")
    assert run_part(home, "train_ratings", "item_mean_model").success
    planted = set_first("rating", float("nan"))(table(home, "ratings").sort("timestamp"))
    planted.write_parquet(AssetStore(home.assets).current(["ratings"]) / TABLE_FILE)
    ran = run_part(home, "train_ratings", "item_mean_model")
    assert not ran.success
    steps = {event.step_key for event in ran.all_events if event.event_type == dg.DagsterEventType.STEP_START}
    assert "train_ratings" in steps and "item_mean_model" not in steps
    (found,) = [result for result in ran.get_asset_check_evaluations() if not result.passed]
    assert (found.asset_key, found.check_name) == (dg.AssetKey("train_ratings"), "columns_and_types")
    assert found.description == "finite numbers: found 1, allowed 0 (rating: 1)"
    assert files(home, "item_mean_model") == before


def test_a_drop_and_a_shift_are_seen_from_one_run_to_the_next(materialized_home, tmp_path):
    """The rules would hold in theory, but nothing would ever be compared with what an earlier run left."""
    home = copied(materialized_home, tmp_path / "home")
    defs = build_defs(home=home)
    job = dg.define_asset_job("look", selection=dg.AssetSelection.checks(*check_keys(CHECK.asset_key)))
    look = dg.Definitions(
        assets=defs.assets, asset_checks=defs.asset_checks, resources=defs.resources, jobs=[job]
    ).resolve_job_def("look")
    good, file = table(home, "ratings"), AssetStore(home.assets).current(["ratings"]) / TABLE_FILE
    top, half = good.filter(pl.col("rating") >= 4), good.gather_every(3)
    found = []
    with dg.DagsterInstance.ephemeral() as instance:
        for rows in (good, half, half, top, good):
            rows.write_parquet(file)
            results = look.execute_in_process(instance=instance, raise_on_error=False).get_asset_check_evaluations()
            assert len(results) == len(check_keys(CHECK.asset_key))
            broken = {result.check_name: result.severity.value for result in results if not result.passed}
            found.append(next(iter(broken.values()), "passed"))
            assert set(broken) == ({"no_sudden_drop"} if rows is half else {"plausible_ratings"} if broken else set())
    # The second drop is measured against the good state, not against the first one.
    assert found == ["passed", "ERROR", "ERROR", "WARN", "WARN"]


@pytest.mark.slow
@pytest.mark.spark
def test_checks_find_the_same_on_spark(materialized_home, tmp_path):
    """Checks of tables that need a cluster would fail there, or let pass what they stop on one machine."""
    session = spark_resource(SparkSettings(master="local[2]"), tmp_path).spark_session
    store, settings, kind = (
        AssetStore(materialized_home.assets),
        Settings.load(materialized_home),
        kept_kind(materialized_home),
    )
    on_polars, on_spark = Stored(store, settings, kind), Stored(store, settings, kind, session)
    # The tables that grow with the users, with every kind of rule.
    for name in ("ratings", "test_ratings", "user_segments", "recommendations"):
        assert look(on_spark, dg.AssetKey(name), {}) == look(on_polars, dg.AssetKey(name), {}), name


@pytest.mark.slow
@pytest.mark.spark
@pytest.mark.parametrize("rule", ["recommends nothing already rated", "recommends what the rules allow"])
def test_a_list_that_breaks_a_rule_is_found_on_spark(rule, tmp_path):
    """On a cluster, lists with rated or blocked items would be served."""
    session = spark_resource(SparkSettings(master="local[2]"), tmp_path).spark_session
    tables = {
        "shown": pl.DataFrame({"user_id": ["ann", "bob"], "rank": [1, 1], "item_id": ["x", "y"]}),
        "users": pl.DataFrame({"user": [0, 1], "user_id": ["ann", "bob"]}),
        "items": pl.DataFrame({"item": [0, 1, 2], "item_id": ["x", "y", "z"]}),
        "rated": pl.DataFrame({"user": [0], "item": [0 if "rated" in rule else 2]}),
    }
    frames = [nw.from_native(session.createDataFrame(frame.to_arrow())) for frame in tables.values()]
    allowed = None if "rated" in rule else pl.Series(["y", "z"])
    found = quality.recommendation_findings(*frames, n=1, allowed=allowed)
    assert [finding.rule for finding in found if not finding.passed] == [rule]
