"""What readers are shown of a study: the selected models, and pictures of what splits promise."""

import polars as pl
import pytest

from recsys_assets.cli.scores import _listing
from recsys_assets.recommender.data.tables import TABLES
from recsys_assets.recommender.report import study_charts
from recsys_assets.recommender.report.study_section import StudySection, StudyTables

AUDITS = (study_charts.AUDIT_OF_RATINGS, study_charts.AUDIT_OF_RANKINGS)


def _scores(*rows: tuple[str, str, str, float]) -> pl.DataFrame:
    """Protocol, model, metric and value, of all users."""
    table = pl.DataFrame(rows, schema=["protocol", "model", "metric", "value"], orient="row")
    value = pl.col("value")
    return table.with_columns(population=pl.lit("all"), n=pl.lit(10), low=value - 0.01, high=value + 0.01)


def _of_audit(audit: study_charts.Audit) -> pl.DataFrame:
    models = ("als_adjusted", "item_mean", "selected", "upper_bound")
    return _scores(
        *((name, model, audit.metric, 0.3 + 0.1 * n) for n, name in enumerate(audit.protocols) for model in models)
    )


def _empty(name: str) -> pl.DataFrame:
    return pl.DataFrame(schema=dict.fromkeys(TABLES[name].columns, pl.String))


def _section(scores: pl.DataFrame) -> StudySection:
    trials = _empty("study_trials").with_columns(pl.col("seconds").cast(pl.Float64), pl.col("is_chosen") == "yes")
    others = [_empty(name) for name in ("tuned_settings", "paired_tests", "leakage_audit", "segment_sweep")]
    return StudySection(StudyTables(trials, others[0], scores, *others[1:]))


@pytest.mark.parametrize("audit", AUDITS, ids=lambda audit: audit.metric)
def test_the_picture_of_optimism_puts_the_same_models_under_every_split(audit):
    """Readers would not see what a flattering split promises, or compare it with the wrong one."""
    other = AUDITS[audit is AUDITS[0]]
    spec = study_charts.optimism(pl.concat([_of_audit(audit), _of_audit(other)]), audit)
    rows = [row for rows in spec["datasets"].values() for row in rows]
    assert {row["model"] for row in rows} == {"als_adjusted", "item_mean"}
    assert {row["protocol"]: row["split"] for row in rows} == dict(
        zip(audit.protocols, ("cut in time", "random, 80 to 20", "last rating out"), strict=True)
    )
    assert all(row["metric"] == audit.metric for row in rows)


@pytest.mark.parametrize("audit", AUDITS, ids=lambda audit: audit.metric)
def test_without_the_honest_split_there_is_no_picture_of_optimism(audit):
    """A flattering score would stand alone, as if it were what users will get."""
    scores = _of_audit(audit)
    assert study_charts.optimism(scores.filter(pl.col("protocol") != audit.protocols[0]), audit) is None
    assert study_charts.optimism(scores.filter(protocol=audit.protocols[0]), audit) is None


def test_readers_are_told_which_protocols_took_a_choice_over():
    """The page would claim of the ranking audit that no choice had seen its test rows."""
    audited = _section(_of_audit(study_charts.AUDIT_OF_RANKINGS)).summary
    assert any("top_n_random_80_20 and top_n_leave_last_out" in sentence for sentence in audited)
    assert "No other choice used a test row of its own protocol." in audited
    plain = _section(_scores(("top_n", "selected", "ndcg_10", 0.3))).summary
    assert not any("top_n_leave_last_out" in sentence for sentence in plain)
    assert "No choice used a test row of its own protocol." in plain


def test_readers_see_how_much_the_seed_matters_where_there_are_several():
    """A difference that another seed turns round would be read as one between methods."""
    one = _scores(("top_n", "selected", "ndcg_10", 0.3)).with_columns(seeds=1, seed_sd=0.0)
    several = _scores(("time_cut", "selected", "rmse", 0.9)).with_columns(seeds=3, seed_sd=0.00123)
    older = _scores(("leave_last_out", "selected", "rmse", 0.8))
    scores = pl.concat([one, several, older], how="diagonal")
    shown = {result.protocol: result.over_seeds for result in _section(scores).results}
    assert shown == {"time_cut": "0.0012", "top_n": "", "leave_last_out": ""}
    titles = [column.header for column in _listing(scores).columns]
    assert "± over seeds" in titles
    assert "± over seeds" not in [column.header for column in _listing(older).columns]


def test_the_numbers_of_segments_stand_side_by_side():
    """People would choose the number of segments by one score, and not see what it costs in another."""
    metrics = {"perplexity": "segment_model", "r2": "segment_bias", "next_item_hit_10": "segment_mixture"}
    rows = [
        {"n_segments": number, "model": model, "metric": metric, "value": 0.1 * number, "low": 0.0, "high": 9.0}
        for number in (5, 20, 80)
        for metric, model in metrics.items()
    ]
    sweep = pl.DataFrame(rows)
    spec = study_charts.segment_sweep(sweep, 20)
    assert [panel["layer"][1]["encoding"]["y"]["title"] for panel in spec["hconcat"]] == [
        "perplexity, lower is better",
        "R² of the latest rating",
        "next item hit at 10",
    ]
    assert study_charts.segment_sweep(sweep.filter(n_segments=5), 20) is None
    assert study_charts.segment_sweep(pl.DataFrame(), 20) is None
