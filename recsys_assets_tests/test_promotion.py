import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import narwhals as nw
import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from benchmarks.small_losses import sequence
from recsys_assets.home.layout import Home
from recsys_assets.home.promotions import PromotionError, Promotions
from recsys_assets.home.settings import Settings
from recsys_assets.home.versions import AssetStore, scan
from recsys_assets.orchestration.resources import spark_resource
from recsys_assets.recommender.data.frames import lazy, to_polars
from recsys_assets.recommender.promotion.gate import (
    GATE_BASELINE,
    Comparison,
    Comparisons,
    Configuration,
    Decision,
    Part,
    decide,
    gate,
)
from recsys_assets.recommender.registry import Entry
from recsys_assets.recommender.registry.fitting import ModelFitter, entry
from recsys_assets.recommender.serving.recommendations import ServingModel
from recsys_assets_tests.conftest import FAST_SETTINGS, invoke
from recsys_assets_tests.running import copied, files, materialize, table

# What a change of the ranking model's settings leads to.
AFTER_A_CHANGE = (
    'key:implicit_als_model or key:"predictions/top_n/implicit_als" '
    "or key:promoted_configuration or key:serving_model or key:recommendations"
)
# Models whose settings a test changes at little cost.
IMPLICIT_ALS = FAST_SETTINGS.replace(
    'selected_ranking_model = "blend"',
    'selected_rating_model = "user_item_bias"\nselected_ranking_model = "implicit_als"',
)
IN_USE = "key:promoted_configuration or key:serving_model or key:recommendations"
OTHER = "rank = 2\nmax_iter = 10"
# One factor under so much regularisation says nothing.
USELESS = "rank = 1\nmax_iter = 1\nreg_param = 1e6"


def configuration(rank: int = 10) -> Configuration:
    """One that differs from others in its rank."""
    parameters = Settings.model_validate({"implicit_als": {"rank": rank}}).model_dump()
    return Configuration.of(parameters, rating_model="als_adjusted", ranking_model="implicit_als")


def contest(difference: float, half: float = 0.1) -> Comparison:
    """Won or lost by this much."""
    score = 0.5 + difference
    return Comparison("ndcg_10", "implicit_als", score, "other", 0.5, difference, difference - half, difference + half)


# The verdict


@pytest.mark.parametrize(
    ("baseline", "champion", "verdict", "told"),
    [
        (0.2, 0.2, "promoted", "not worse"),
        (0.2, 0.0, "promoted", "not worse"),
        (0.2, -0.09, "promoted", "not worse"),
        (0.2, -0.2, "kept", "worse than those in use"),
        (0.0, 0.2, "kept", "do not beat the baseline"),
        (-0.2, 0.2, "kept", "do not beat the baseline"),
    ],
)
def test_only_what_beats_the_baseline_and_is_not_worse_replaces_what_is_in_use(baseline, champion, verdict, told):
    """Users would be shown the lists of a worse model because it is the newest."""
    decision = decide(
        configuration(20), configuration(10), baseline=[contest(1), contest(baseline)], champion=[contest(champion)]
    )
    assert decision.verdict == verdict
    assert told in decision.reason


def test_what_nobody_is_shown_has_no_veto():
    """Better lists would be held back by ratings that nobody sees, or that are all the same."""
    rating = replace(contest(-0.2), metric="top5pct_rating")
    same = replace(rating, difference=0.0, low=0.0, high=0.0)
    for unseen in (rating, same):
        decision = decide(
            configuration(20), configuration(10), baseline=[unseen, contest(0.2)], champion=[unseen, contest(0.2)]
        )
        assert decision.verdict == "promoted"


def test_a_loss_that_chance_explains_passes_once_and_is_told():
    """Each small loss would be measured by the one before, and twenty of them be a large one."""
    candidate, current = configuration(20), configuration(10)
    won = {"baseline": [contest(0.2)], "champion": [contest(-0.05)]}
    first = decide(candidate, current, **won)
    assert first.verdict == "promoted"
    assert "a loss of up to 0.1000 passes, one of 0.1429 is found in 4 of 5 cases" in first.reason
    second = decide(candidate, current, **won, best=[contest(-0.05)])
    assert second.verdict == "kept" and "not clearly above the best ever promoted" in second.reason
    assert decide(candidate, current, **won, best=[contest(0.04)]).verdict == "kept"
    for enough in (contest(0.06), replace(contest(0.0), low=0.0, high=0.0)):
        assert decide(candidate, current, **won, best=[enough]).verdict == "promoted"


def test_the_best_is_what_was_better_by_a_whole_interval_or_what_a_person_went_back_to(tmp_path):
    """A row of lucky configurations would each become the measure of the next, lower and lower."""
    record = Promotions(tmp_path)
    assert record.best() is None
    against_first = f"implicit_als {configuration(10).name}"
    decided = [
        (10, "promoted", []),
        (20, "promoted", [replace(contest(0.05), opponent=against_first)]),
        (30, "kept", [replace(contest(0.5), opponent=against_first)]),
    ]
    for rank, verdict, contests in decided:
        record.add(configuration(rank), Decision(verdict, "because"), contests=contests)
        assert record.best() == configuration(10)
    record.add(
        configuration(40), Decision("promoted", "because"), contests=[replace(contest(0.2), opponent=against_first)]
    )
    assert record.best() == configuration(40)
    promoted(record, 20, "rolled back")
    assert record.best() == configuration(20)


def test_twenty_small_losses_are_refused_before_they_are_a_large_one():
    """Lists would become ten standard errors worse by steps of which none is told from chance."""
    outcomes = [sequence(seed, n_users=60, n_resamples=60) for seed in range(8)]
    assert np.mean([outcome.lost for outcome in outcomes]) > -1.2
    assert all(outcome.lost > -2.1 for outcome in outcomes)
    without = [sequence(seed, n_users=60, n_resamples=60, knows_the_best=False) for seed in range(2)]
    assert np.mean([outcome.lost for outcome in without]) < -5


def test_the_first_configuration_is_used_with_a_warning():
    """On data where nothing beats the baseline nobody would ever be shown anything, or nobody would be told."""
    good = decide(configuration(), None, baseline=[contest(0.1)], champion=[])
    bad = decide(configuration(), None, baseline=[contest(-0.1)], champion=[])
    assert good.verdict == bad.verdict == "promoted"
    assert "not beat" in bad.reason and "not beat" not in good.reason


def test_settings_in_use_are_kept_with_a_warning():
    """New ratings would push what is in use below its baseline, and nobody would be told."""
    good = decide(configuration(), configuration(), baseline=[contest(0.1)], champion=[])
    bad = decide(configuration(), configuration(), baseline=[contest(-0.1)], champion=[])
    assert good.verdict == bad.verdict == "kept"
    assert "not beat" in bad.reason and "not beat" not in good.reason


def test_what_somebody_rolled_back_from_stays_out():
    """The next scheduled refresh would undo a rollback."""
    new, old = configuration(20), configuration(10)
    won = {"baseline": [contest(0.2)], "champion": [contest(0.2)]}
    assert decide(new, old, **won, withdrawn=[new.ranking]).verdict == "kept"
    assert decide(new, old, **won, withdrawn=[configuration(30).ranking]).verdict == "promoted"


def test_a_configuration_is_the_settings_that_its_predictions_depend_on():
    """A setting of the report would count as a new model, or a new seed would not."""

    def of(**changes: dict[str, float]) -> Configuration:
        parameters = Settings.model_validate(changes).model_dump()
        return Configuration.of(parameters, rating_model="als_adjusted", ranking_model="implicit_als")

    assert of().name == of(segments={"n_segments": 7}).name == of(clusters={"k_max": 9}).name
    for changed in ({"als": {"seed": 1}}, {"implicit_als": {"alpha": 2.0}}, {"cold_start": {"fill_size": "5"}}):
        assert of(**changed).name != of().name, changed
    assert of().ranking.settings["implicit_als"] == Settings().implicit_als.model_dump()


def test_what_has_no_weight_is_no_part_of_a_configuration():
    """A setting of a model that the blend leaves out would make every model compete again, for the same lists."""

    def of(ease_weight: float, rank: int) -> str:
        changes = {"blend": {"ease_weight": ease_weight}, "implicit_als": {"rank": rank}}
        parameters = Settings.model_validate(changes).model_dump()
        return Configuration.of(parameters, rating_model="item_mean", ranking_model="blend").name

    assert of(1.0, 8) == of(1.0, 16)
    assert of(0.5, 8) != of(0.5, 16)


def test_a_configuration_comes_back_as_it_was_stored(tmp_path):
    """The serving model would be fitted with other settings than those that were promoted."""
    stored = Configuration.of(Settings().model_dump(), rating_model="item_mean", ranking_model="blend")
    stored.save(tmp_path)
    assert Configuration.load(tmp_path) == stored


# Comparisons


def test_contests_are_paired_over_users():
    """Two nearly equal models would be told apart by luck, or two different ones not at all."""
    users, per_user = 60, 20
    generator = np.random.default_rng(0)
    true = pl.DataFrame(
        {
            "user": np.repeat(np.arange(users, dtype=np.int32), per_user),
            "item": np.tile(np.arange(per_user, dtype=np.int32), users),
            "rating": generator.integers(1, 6, users * per_user).astype(np.float32),
        }
    )

    def ranked(noise: float, seed: int) -> nw.LazyFrame:
        drawn = np.random.default_rng(seed).normal(0, noise, len(true))
        noisy = true.with_columns(noisy=pl.col("rating") + pl.Series(drawn, dtype=pl.Float32))
        rank = pl.col("noisy").rank("ordinal", descending=True).over("user").cast(pl.Int32)
        return lazy(noisy.select("user", "item", rank=rank))

    contests = Comparisons(lazy(true), lowest_relevant=4.0, seed=0, n_resamples=200)
    drawn = ((1.0, 1), (1.0, 4), (3.0, 1))
    good, as_good, bad = (contests.scored("blend", ranked(noise, seed)) for noise, seed in drawn)
    close = contests.between("blend", good, "blend c0ffee", as_good)
    apart = contests.between("blend", bad, "popularity", good)
    same = contests.between("blend", good, "popularity", good)
    assert close.low <= close.difference <= close.high and close.low < 0 < close.high
    assert apart.high < 0
    assert (same.low, same.difference, same.high) == (0, 0, 0)
    assert close.opponent == "blend c0ffee"
    assert close.difference == pytest.approx(close.score - close.opponent_score)


def compete(
    candidate: Configuration, current: Configuration | None, *, higher_in_training: float = 0.0
) -> tuple[Decision, list[Comparison], list[str]]:
    """Two configurations on five items that the candidate knows and the current one has upside down.

    Ratings were higher in training by so much. The last is what of the current one was fitted again.
    """
    pairs = pl.DataFrame({"user": np.repeat(np.arange(20), 5), "item": np.tile(np.arange(5), 20)})
    test = pairs.cast(pl.Int32).with_columns(rating=pl.col("item").cast(pl.Float32) + 1)
    good, bad = (lazy(test.select("user", "item", rank=place)) for place in (5 - pl.col("item"), pl.col("item") + 6))
    fitted_again = []

    def predict(of: Configuration, model: Entry) -> nw.LazyFrame:
        if of != candidate:
            fitted_again.append(model.name)
        return good if of == candidate and model != GATE_BASELINE else bad

    decision, contests = gate(
        candidate,
        current,
        lazy(test.with_columns(pl.col("rating") + higher_in_training)),
        lazy(test),
        predict=predict,
        withdrawn=(),
        seed=0,
        n_resamples=100,
    )
    return decision, contests, fitted_again


def test_what_two_configurations_share_is_not_fitted_again():
    """A changed setting of the lists would make a refresh wait for the rating models a second time."""
    decision, contests, fitted_again = compete(configuration(20), configuration(10))
    assert fitted_again == ["implicit_als"]
    assert [(found.metric, found.difference > 0) for found in contests[1:]] == [("ndcg_10", True)]
    assert decision.verdict == "promoted"


def test_test_ratings_without_a_liked_item_stop_nothing():
    """A small catalogue, or one whose ratings have fallen, would get no recommendations at all."""
    for current, verdict in ((None, "promoted"), (configuration(20), "kept"), (configuration(10), "promoted")):
        decision, contests, fitted_again = compete(configuration(20), current, higher_in_training=10)
        assert decision.verdict == verdict
        assert "the test ratings do not define ndcg_10" in decision.reason
        assert not contests
        assert not fitted_again


@pytest.mark.parametrize(
    "rating", [Part("als_adjusted", {"als": {"blocks": 3}}), Part("a_model_of_long_ago", {"als": {"rank": 3}})]
)
def test_what_an_earlier_version_promoted_does_not_stop_a_refresh(rating):
    """After an update of the package every refresh would fail, because the model in use cannot be fitted any more."""
    decision, contests, fitted_again = compete(configuration(20), replace(configuration(10), rating=rating))
    assert fitted_again == ["implicit_als"] and len(contests) == 2
    assert decision.verdict == "promoted"


@pytest.mark.parametrize("withdrawn", [False, True])
def test_a_ranking_model_that_is_gone_gives_way(withdrawn):
    """Nothing could be recommended any more after an update of the package, whatever somebody changed."""
    gone = replace(configuration(10), ranking=Part("a_model_of_long_ago", {"implicit_als": {"rank": 3}}))
    worse = [contest(-0.2)]
    decision = decide(
        configuration(20),
        gone,
        baseline=worse,
        champion=[],
        withdrawn=[configuration(20).ranking] if withdrawn else (),
        outdated=["a_model_of_long_ago"],
    )
    assert decision.verdict == "promoted"
    assert "a_model_of_long_ago" in decision.reason and "not beat" in decision.reason


@pytest.mark.parametrize("ease_weight", [1.0, 0.5])
def test_another_weight_of_a_blend_is_no_other_version(ease_weight):
    """A blend would be replaced without being compared, because it needs one model more or less than the new one."""
    parameters = Settings.model_validate({"blend": {"ease_weight": ease_weight}}).model_dump()
    of = Configuration.of(parameters, rating_model="item_mean", ranking_model="blend")
    assert of.ranking.can_be_fitted("top_n")
    unknown = {**of.ranking.settings, "blend": {**of.ranking.settings["blend"], "setting_of_long_ago": 1}}
    assert not replace(of.ranking, settings=unknown).can_be_fitted("top_n")


def test_a_setting_that_an_update_adds_has_its_default_in_what_is_in_use():
    """An update would promote lists worse than popularity without a comparison, and refuse every rollback."""

    def older(of: Configuration) -> Configuration:
        settings = {name: value for name, value in of.ranking.settings["implicit_als"].items() if name != "alpha"}
        return replace(of, ranking=Part("implicit_als", {**of.ranking.settings, "implicit_als": settings}))

    stored = older(configuration(10))
    assert stored.ranking.can_be_fitted("top_n")
    assert stored.ranking.all_settings["implicit_als"] == Settings().implicit_als.model_dump() | {"rank": 10}
    decision, contests, fitted_again = compete(configuration(20), stored)
    assert fitted_again == ["implicit_als"] and contests[-1].opponent == f"implicit_als {stored.name}"
    assert "are not worse than those in use" in decision.reason
    decision, *_ = compete(configuration(20), older(configuration(20)))
    assert decision.reason.startswith("The settings are those in use")


@pytest.mark.slow
@pytest.mark.spark
def test_a_refit_gives_what_the_pipeline_stored_on_both_engines(materialized_home, tmp_path):
    """The configuration in use would be compared as something else than what it is, or not at all on a cluster."""
    home, settings = materialized_home, Settings.load(materialized_home)
    session = spark_resource(settings.spark, tmp_path).spark_session
    versions = {
        name: AssetStore(home.assets).current([name])
        for name in ("users", "items", "user_features", "train_ratings", "test_ratings")
    }
    for engine in (None, session):
        tables = {name: scan(version, engine) for name, version in versions.items()}
        refit = ModelFitter(tables, settings.model_dump())
        for task, name in (("time_cut", "als_adjusted"), ("top_n", "implicit_als")):
            found = to_polars(refit.predictions(entry(task, name))).sort("user", "item")
            stored = table(home, "predictions", task, name)
            assert_frame_equal(found.select(stored.columns), stored, check_dtypes=False, abs_tol=1e-4)


# The record


def promoted(record: Promotions, rank: int, verdict: str = "promoted") -> int:
    """Another decision, about the configuration of that rank."""
    return record.add(configuration(rank), Decision(verdict, "because")).number  # type: ignore[arg-type]


def test_the_record_says_what_is_in_use_and_what_was(tmp_path):
    """A rollback would go back to what was refused, to what is in use, or nowhere."""
    record = Promotions(tmp_path)
    assert record.current() is None
    with pytest.raises(PromotionError, match="Nothing has been promoted"):
        record.earlier()
    assert [promoted(record, 10), promoted(record, 20), promoted(record, 30, "kept")] == [1, 2, 3]
    assert record.current().number == 2
    assert record.earlier().number == record.earlier(1).number == 1
    for number in (2, 3, 9):
        with pytest.raises(PromotionError, match=f"{number} is not an earlier promotion.*there are: 1"):
            record.earlier(number)
    assert [found.number for found in record.all()] == [1, 2, 3]


def test_records_of_earlier_versions_can_be_read(tmp_path):
    """After an update nobody could list what was promoted, and every refresh would fail."""
    promoted(Promotions(tmp_path), 10)
    (path,) = tmp_path.glob("*.json")
    record = json.loads(path.read_text())
    old = {name: value for name, value in asdict(contest(0.1)).items() if not name.startswith("score_")}
    path.write_text(json.dumps(record | {"contests": [old], "scores": [{"model": "stack", "value": 4.3}]}))
    (found,) = Promotions(tmp_path).all()
    assert found.contests[0].difference == pytest.approx(0.1)
    assert np.isnan(found.contests[0].score_low)


def test_going_back_twice_goes_further_back(tmp_path):
    """Somebody who still does not like the lists would be given those that were rolled back from a minute ago."""
    record = Promotions(tmp_path)
    for rank in (10, 20, 30):
        promoted(record, rank)
    assert record.earlier().number == 2
    promoted(record, 20, "rolled back")
    assert record.earlier().number == 1
    promoted(record, 10, "rolled back")
    with pytest.raises(PromotionError, match=r"were rolled back from.*there are: 2, 3, 4"):
        record.earlier()
    assert record.earlier(3).number == 3


def test_the_record_knows_what_was_withdrawn_until_it_is_wanted_again(tmp_path):
    """A configuration once rolled back from could never be used again, or would come back by itself."""
    record = Promotions(tmp_path)
    promoted(record, 10)
    promoted(record, 20)
    assert record.withdrawn() == []
    promoted(record, 10, "rolled back")
    assert record.withdrawn() == [configuration(20).ranking]
    promoted(record, 20, "rolled back")
    assert record.withdrawn() == [configuration(10).ranking]


def with_other_ratings(rank: int) -> Configuration:
    """The configuration of this rank beside another rating model."""
    return replace(configuration(rank), rating=Part("item_mean", {}))


def test_another_rating_model_does_not_bring_back_what_was_rolled_back_from(tmp_path):
    """A rollback would be undone by the next refresh after a setting of the predicted ratings has changed."""
    record = Promotions(tmp_path)
    promoted(record, 10)
    promoted(record, 20)
    record.add(with_other_ratings(20), Decision("promoted", "because"))
    assert record.earlier().number == 1
    promoted(record, 10, "rolled back")
    won = {"baseline": [contest(0.2)], "champion": [contest(0.2)], "withdrawn": record.withdrawn()}
    for candidate in (configuration(20), with_other_ratings(20)):
        assert decide(candidate, configuration(10), **won).verdict == "kept"
    assert decide(with_other_ratings(10), configuration(10), **won).verdict == "promoted"


def test_another_rating_model_does_not_grant_the_margin_again(tmp_path):
    """A row of small losses would pass, each measured by lists that were beaten long ago."""
    record = Promotions(tmp_path)
    promoted(record, 10)
    record.add(with_other_ratings(10), Decision("promoted", "because"))
    won = replace(contest(0.2), opponent=f"implicit_als {with_other_ratings(10).name}")
    record.add(with_other_ratings(20), Decision("promoted", "because"), contests=[won])
    assert record.best() == with_other_ratings(20)


def test_another_rating_model_is_not_told_as_other_lists(tmp_path):
    """Users would be said to see other lists than the selected ones, although these are the same."""
    home = Home(tmp_path)
    record, store = Promotions(home.promotions), AssetStore(home.assets)
    promoted(record, 10)
    record.add(with_other_ratings(10), Decision("kept", "because"))
    assert record.not_served(store) == ""
    record.add(configuration(20), Decision("kept", "It is worse."))
    assert "It is worse." in record.not_served(store)


# Real runs


def recommended(home: Home) -> pl.DataFrame:
    """What users are shown."""
    return table(home, "recommendations")


def change(home: Home, ranking: str) -> None:
    """Refresh what depends on the ranking model with these settings."""
    settings = IMPLICIT_ALS.replace("[implicit_als]\nrank = 4\nmax_iter = 3", f"[implicit_als]\n{ranking}")
    assert settings != IMPLICIT_ALS
    home.settings_file.write_text(settings)
    assert materialize(home, AFTER_A_CHANGE).success


def test_recommendations_change_only_with_a_promotion_or_a_rollback(materialized_home, tmp_path: Path):
    """Users would be shown the lists of a refused model, or a promotion or rollback would change nothing for them."""
    home = copied(materialized_home, tmp_path / "home")
    shutil.rmtree(home.promotions)
    home.settings_file.write_text(IMPLICIT_ALS)
    assert materialize(home, IN_USE).success
    record = Promotions(home.promotions)
    first, at_first = record.current(), recommended(home)

    change(home, USELESS)
    assert [found.verdict for found in record.all()] == ["promoted", "kept"]
    assert "worse than those in use" in record.all()[-1].reason
    assert record.current() == first
    assert recommended(home).equals(at_first)

    change(home, OTHER)
    accepted = record.all()[-1]
    assert accepted.verdict == "promoted", accepted.reason
    assert record.current() == accepted
    assert accepted.configuration.ranking.settings["implicit_als"]["rank"] == 2
    opponents = [found.opponent for found in accepted.contests]
    assert opponents == ["popularity", f"implicit_als {first.configuration.name}"]
    accepted_lists = recommended(home)
    assert not accepted_lists.equals(at_first)

    listed = invoke("promotions", "--home", home.path)
    assert listed.exit_code == 0, listed.output
    (current,) = [line for line in listed.stdout.splitlines() if "●" in line]
    assert accepted.configuration.name in current and "promoted" in current

    back = invoke("rollback", "--home", home.path)
    assert back.exit_code == 0, back.output
    assert record.current().configuration == first.configuration
    assert record.current().verdict == "rolled back"
    assert recommended(home).equals(at_first)

    # The settings are still those that were rolled back from; a refresh does not bring them back.
    assert materialize(home, IN_USE).success
    assert (record.all()[-1].verdict, record.current().verdict) == ("kept", "rolled back")
    assert "rolled back from" in record.all()[-1].reason
    assert recommended(home).equals(at_first)

    again = invoke("rollback", str(accepted.number), "--home", home.path)
    assert again.exit_code == 0, again.output
    assert recommended(home).equals(accepted_lists)


@pytest.mark.slow
def test_a_rollback_to_another_model_changes_what_users_are_shown(materialized_home, tmp_path):
    """Going back to a configuration of the time when another model was served would fail, or change nothing."""
    home = copied(materialized_home, tmp_path / "home")
    record = Promotions(home.promotions)
    blend, with_blend = record.current().configuration, recommended(home)
    assert blend.ranking.model == "blend"
    ranking = Settings.load(home).implicit_als.model_dump()
    earlier = {"clusters": {"k": 2, "seed": 0, "weigh": "auto"}, "implicit_als": ranking}
    als = Part("als_adjusted", {"als": {"rank": 4}})
    record.add(Configuration(als, Part("implicit_als", earlier)), Decision("promoted", "as it was"))
    record.add(blend, Decision("promoted", "as it is"))

    back = invoke("rollback", "--home", home.path)
    assert back.exit_code == 0, back.output
    model = ServingModel.load(AssetStore(home.assets).current(["serving_model"]))
    assert (model.name, set(model.models)) == ("implicit_als", {"implicit_als_model"})
    assert model.models["implicit_als_model"].rank == ranking["rank"]
    with_als = recommended(home)
    both = with_blend.join(with_als, on=["user_id", "rank"], suffix="_als")
    assert len(both) == len(with_blend) and (both["item_id"] != both["item_id_als"]).any()
    assert with_als["because"].list.len().max() == 3
    shown = invoke("recommend", "17", "--home", home.path).stdout.splitlines()[1:]
    assert [line.split()[1] for line in shown] == with_als.filter(user_id="17").sort("rank")["item_id"].to_list()

    forth = invoke("rollback", "3", "--home", home.path)
    assert forth.exit_code == 0, forth.output
    assert recommended(home).equals(with_blend)


def test_the_same_settings_are_kept_without_another_fit(materialized_home, tmp_path, monkeypatch):
    """Every weekly refresh would fit every model twice, and look like a change of what is served."""
    home = copied(materialized_home, tmp_path / "home")
    before = files(home, "promoted_configuration")
    monkeypatch.setattr(ModelFitter, "_make", lambda _, step: pytest.fail(f"{step.asset} was fitted again"))
    assert materialize(home, 'key:"predictions/top_n/*" or key:promoted_configuration').success
    latest = Promotions(home.promotions).all()[-1]
    assert (latest.verdict, latest.reason) == ("kept", "The settings are those in use, and they beat the baseline.")
    assert files(home, "promoted_configuration") == before


def test_the_gate_compares_the_same_lists_with_and_without_the_scores_of_all_models(materialized_home, tmp_path):
    """Refreshes after new ratings would decide by other numbers than the weekly refresh."""
    home = copied(materialized_home, tmp_path / "home")
    assert materialize(home, "key:promoted_configuration").success
    first, latest = Promotions(home.promotions).all()
    assert latest.contests == first.contests


def test_each_promotion_says_what_it_rests_on(materialized_home):
    """Nobody could tell later with which data, settings, seed and scores something was promoted."""
    (first,) = Promotions(materialized_home.promotions).all()
    assert set(first.data_versions) == {"ratings", "train_ratings", "test_ratings"}
    assert first.configuration.rating.settings["stack_holdout"]["seed"] == 0
    assert [(each.model, each.opponent, each.metric) for each in first.contests] == [("blend", "popularity", "ndcg_10")]
    assert all(each.score_low < each.score < each.score_high for each in first.contests)
    assert replace(first, number=2) != first
    assert first.run_id


def test_the_report_says_what_was_promoted(materialized_home):
    """The report would be made before the decision, and name no model or the one before."""
    (first,) = Promotions(materialized_home.promotions).all()
    ndcg = next(each.score for each in first.contests if each.opponent == "popularity")
    report = materialized_home.report.read_text()
    assert "Blend of ranking models: " in report and f"Served since {first.when[:10]}" in report
    assert f"{ndcg:.4f}" in report


def test_rollback_with_nothing_to_go_back_to_says_so(materialized_home, tmp_path):
    """A person who wants the old lists back would be shown a traceback, or wait for a run that changes nothing."""
    for home, told in ((materialized_home.path, "Error: Nothing"), (tmp_path / "empty", "Error: There is no home")):
        answer = invoke("rollback", "--home", home)
        assert answer.exit_code == 1
        assert told in answer.stderr
    empty = invoke("promotions", "--home", tmp_path / "empty")
    assert empty.exit_code == 1 and "recsys-assets run" in empty.stderr
