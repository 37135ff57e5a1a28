"""What the assets show in Dagster's UI."""

import base64
import io
import re

import dagster as dg
import numpy as np
import pytest
from PIL import Image

from recsys_assets.home.layout import Home
from recsys_assets.home.settings import Settings, SettingsError
from recsys_assets.home.versions import AssetStore, load
from recsys_assets.orchestration.build import build_defs
from recsys_assets.recommender.registry import FITS
from recsys_assets.recommender.registry.learnt import learnt
from recsys_assets.recommender.report.theme import MAX_PNG_WIDTH
from recsys_assets_tests.running import copied, materialize

PICTURE = re.compile(r"!\[(.*)\]\(data:image/png;base64,(.*)\)")


@pytest.fixture(scope="module")
def ran(materialized_home, tmp_path_factory) -> dg.ExecuteInProcessResult:
    """A run of assets that show something."""
    home = copied(materialized_home, tmp_path_factory.mktemp("ui") / "home")
    return materialize(home, "key:evaluation_scores or key:recommendations or key:ease_model or key:train_ratings")


def _metadata(ran: dg.ExecuteInProcessResult, name: str) -> dict[str, dg.MetadataValue]:
    return dict(ran.asset_materializations_for_node(name)[0].metadata)


def test_pictures_fit_into_the_dialog_and_say_what_they_show(ran):
    """A picture is cut at its right side, or is nothing to somebody who does not see it."""
    shown = [_metadata(ran, name) for name in ("evaluation_scores", "train_ratings")]
    texts = [str(value.value) for of in shown for value in of.values() if isinstance(value, dg.MarkdownMetadataValue)]
    pictures = [found for text in texts if (found := PICTURE.fullmatch(text))]
    assert len(pictures) == 4
    for found in pictures:
        assert Image.open(io.BytesIO(base64.b64decode(found[2]))).width <= MAX_PNG_WIDTH
        assert len(found[1]) > 40 and "chart" not in found[1]


def test_numbers_have_four_digits_and_tell_something(ran):
    """The UI plots sizes of files, and scores with 17 digits."""
    for name in ("evaluation_scores", "recommendations", "ease_model", "train_ratings"):
        numbers = {
            label: value.value
            for label, value in _metadata(ran, name).items()
            if isinstance(value, dg.FloatMetadataValue | dg.IntMetadataValue)
        }
        assert "bytes" not in numbers
        assert [
            label for label, value in numbers.items() if value != float(f"{value:.4g}") and isinstance(value, float)
        ] == []


def test_predictions_show_their_score_beside_baseline_and_bound(ran):
    """Whether a model is any good could not be seen where it stands in the graph."""
    events = [event.event_specific_data.asset_observation for event in ran.all_events if event.is_asset_observation]
    told = {of.asset_key.to_user_string(): {k: v.value for k, v in of.metadata.items()} for of in events}
    for key, metric, baseline in (
        ("predictions/top_n/ease", "ndcg_10", "popularity"),
        ("predictions/time_cut/stack", "top5pct_rating", "item_mean"),
        ("predictions/latest_rating/segment_bias", "r2", "item_mean"),
        ("predictions/next_item/transitions", "next_item_hit_10", "popularity"),
    ):
        assert list(told[key]) == [metric, f"{metric} of {baseline}", "random", "best possible"]
        assert told[key]["random"] < told[key]["best possible"]


def test_recommendations_show_a_sample_of_the_lists(ran):
    """Nobody sees whether lists make sense without leaving the UI."""
    records = _metadata(ran, "recommendations")["a sample of the lists"].records
    rows = [record.data for record in records]
    assert {row["place"] for row in rows} == {1, 2, 3, 4, 5}
    assert 1 <= len({row["user"] for row in rows}) <= 4
    assert any(row["because of"] != "–" for row in rows)


def test_every_model_tells_two_numbers(materialized_home):
    """A fit that has learnt nothing looks like any other one."""
    store = AssetStore(materialized_home.assets)
    for fit in FITS:
        numbers = learnt(load(fit.model_type, store.current([fit.asset])))
        assert len(numbers) == 2, fit.asset
        assert np.isfinite([float(value) for value in numbers.values()]).all(), fit.asset


def test_owners_are_those_of_the_settings(tmp_path):
    """Assets would belong to a team that nobody has, or an alert would reach nobody."""
    home = Home(tmp_path)
    home.settings_file.write_text('[instance]\nowners = ["team:films", "ana@example.org"]\n')
    graph = build_defs(home=home).get_repository_def().asset_graph
    assert {tuple(node.owners) for node in graph.asset_nodes} == {("team:films", "ana@example.org")}
    home.settings_file.write_text('[instance]\nowners = ["films"]\n')
    with pytest.raises(SettingsError, match="'films' is neither an e-mail address nor team:NAME"):
        Settings.load(home)
