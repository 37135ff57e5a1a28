"""Homes of earlier versions: upgraded whatever interrupts the upgrade, and never read half."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from filelock import FileLock

from recsys_assets.errors import RecsysError
from recsys_assets.home import upgrade
from recsys_assets.home.layout import FORMAT, Home
from recsys_assets.home.merged import MergedWith
from recsys_assets.home.settings import Settings, SettingsError
from recsys_assets.home.unfinished import write_atomically
from recsys_assets.home.versions import AssetStore, load, scan
from recsys_assets.recommender.data.frames import to_polars
from recsys_assets.recommender.serving.recommendations import MadeWith
from recsys_assets_tests.conftest import invoke
from recsys_assets_tests.old_homes import content, home_of_0_6, home_of_0_9


def test_a_home_of_version_0_6_keeps_everything_under_the_present_names(tmp_path: Path) -> None:
    """Whoever installs the new version would have lost the id map, models, settings or decisions of the home."""
    home = home_of_0_6(tmp_path / "home")
    before = content(home)
    assert upgrade.bring_up_to_date(home)
    assert home.format == FORMAT
    store = AssetStore(home.assets)
    assert to_polars(scan(store.current(["items"]))).rows(named=True)[1] == {
        "item": 1,
        "item_id": "n",
        "title": "N",
        "genres": ["Drama"],
    }
    raw = to_polars(scan(store.current(["raw_items"], "movies")))
    assert raw.rows(named=True) == [{"item_id": "m", "title": "movie"}]
    # An attribute would have the name of the column of items.
    assert scan(store.current(["raw_users"], "movies")).collect_schema().names() == ["user_id", "item_", "movies"]
    ratings = pl.read_parquet(store.current(["ratings"]) / "table.parquet")
    assert ratings.schema == {"user": pl.Int64, "item": pl.Int32, "rating": pl.Float64}
    assert json.loads((store.current(["ratings"]) / ".id_map.json").read_text()).keys() == {"items", "users"}
    assert store.has(["predictions", "next_item", "ease"])
    model = store.current(["implicit_als_model"])
    assert pl.read_parquet(model / "item_factors.parquet").columns == ["item"]
    assert json.loads((model / "model.json").read_text()) == {"n_items": 2}
    scores = to_polars(scan(store.current(["evaluation_scores"])))
    assert scores.rows() == [(m, "movies", 0.5) for m in ("next_item_hit_10_gain", "top5pct_rating", "rmse")]
    segments = json.loads((store.current(["segment_shares"]) / "state" / "segments.json").read_text())
    assert segments == {"names": ["next_movie", "max_movies"]}
    trial = json.loads(next(home.study.rglob("*.json")).read_text())
    assert trial["question"] == {"task": "next_item", "parameters": {"ease": {"max_items": 7}}}
    assert trial["scores"] == {"all": {"next_item_hit_10": 0.25}}
    after = content(home)
    assert all(after[name] == before[name] for name in ("landing/a.csv", "forgotten"))
    assert len(after) == len(before) + 1


def test_installing_upgrades_no_home(tmp_path: Path) -> None:
    """`make setup` beside an earlier version would upgrade the home that this version still uses."""
    home = home_of_0_9(tmp_path / "home")
    before = content(home)
    makefile = (Path(__file__).parents[1] / "Makefile").read_text()
    [imported] = re.findall(r"-c '(import recsys_assets\S*)'", makefile)
    subprocess.run([sys.executable, "-c", imported], env=os.environ | {"RECSYS_HOME": str(home.path)}, check=True)
    assert content(home) == before


def test_a_home_of_version_0_9_keeps_everything_under_the_present_names(tmp_path: Path) -> None:
    """Whoever installs the new version would have lost models, scores, choices or settings, or had own data renamed."""
    home = home_of_0_9(tmp_path / "home")
    before = content(home)
    assert upgrade.bring_up_to_date(home)
    assert home.format == FORMAT
    store, after = AssetStore(home.assets), content(home)
    # What the user calls by an old name is the user's.
    own = [name for name in before if name.startswith(("landing", "forgotten", "assets/raw_", "assets/items"))]
    assert len(own) == 4 and all(after[name] == before[name] for name in own)
    assert len(after) == len(before)
    assert json.loads((store.current(["ratings"]) / ".id_map.json").read_text()) == {"items": [1, "f"]}
    assert load(MergedWith, store.current(["ratings"]) / "state").settings == {"sample": {"share": 0.5}}
    for asset, was in (
        ("demographic_popularity_model", "liking_model"),
        ("implicit_als_model", "ranking_model"),
        ("history_implicit_als_model", "history_ranking_model"),
        ("als_adjusted_model", "als_model"),
        ("als_unadjusted_model", "als_model_unadjusted"),
    ):
        assert json.loads((store.current([asset]) / "model.json").read_text())["name"] == was
    assert store.has(["predictions", "top_n", "demographic_popularity"])
    assert json.loads((store.current(["quick_choice"]) / "choice.json").read_text()) == {
        "demographic_popularity.reg": 3.0,
        "evaluation.selected_ranking_model": "demographic_popularity",
    }
    scores = pl.read_parquet(store.current(["evaluation_scores"]) / "table.parquet")
    assert scores.select("protocol", "model").rows() == [
        ("top_n", "demographic_popularity"),
        ("leave_last_out", "als_adjusted"),
    ]
    assert store.has(["study_scores"], "top_n_leave_last_out")
    choices = pl.read_parquet(store.current(["tuned_settings"]) / "table.parquet")
    assert choices.rows(named=True) == [
        {"setting": "implicit_als.rank", "chosen": "16", "validation_split": "top_n", "search": "implicit_als"},
        {
            "setting": "demographic_popularity.half_life",
            "chosen": '"auto * 3"',
            "validation_split": "leave_last_out",
            "search": "demographic_popularity_half_life",
        },
        {
            "setting": "evaluation.selected_ranking_model",
            "chosen": '"demographic_popularity"',
            "validation_split": "top_n",
            "search": "selected_ranking_model",
        },
    ]
    kept = home.study / "scores" / "leave_last_out"
    assert pl.read_parquet(kept / (kept / "newest").read_text() / "scores.parquet").equals(scores)
    assert json.loads((home.study / "trials" / "leave_last_out" / "0123456789abcdef.json").read_text())["question"] == {
        "slice": "leave_last_out",
        "model": "demographic_popularity",
        "parameters": {"demographic_popularity": {"reg": 3.0}, "implicit_als": {"rank": 2}},
    }
    model = json.loads((store.current(["serving_model"]) / "model.json").read_text())
    assert (model["name"], model["models"]) == (
        "demographic_popularity",
        ["demographic_popularity_model", "implicit_als_model"],
    )
    assert all((store.current(["serving_model"]) / name / "model.json").exists() for name in model["models"])


@pytest.mark.parametrize(
    ("home_of", "settings"),
    [
        (home_of_0_6, {"ease": {"max_items": 77, "reg": "auto"}}),
        (home_of_0_9, {"demographic_popularity": {"reg": 3.0}, "implicit_als": {"rank": 3}}),
    ],
)
def test_the_served_lists_stay_those_of_their_promotion(
    tmp_path: Path, home_of: Callable[[Path], Home], settings: dict[str, Any]
) -> None:
    """A promoted configuration has another name after the upgrade: the lists would count as made by nobody."""
    home = home_of(tmp_path / "home")
    assert upgrade.bring_up_to_date(home)
    record = json.loads((home.promotions / "000002.json").read_text())
    name = upgrade._hash(record["configuration"])
    model, contest = record["configuration"]["ranking"]["model"], record["contests"][0]
    assert record["configuration"]["ranking"]["settings"] == settings
    assert contest["metric"] in ("top5pct_rating", "ndcg_10")
    assert contest.get("opponent", f"{model} {name}") == f"{model} {name}"
    assert record["reason"] == f"as good as {name}"
    store = AssetStore(home.assets)
    assert load(MadeWith, store.current(["serving_model"])).configuration == name
    assert load(MadeWith, store.current(["recommendations"]) / "state").configuration == name


@pytest.mark.parametrize("home_of", [home_of_0_6, home_of_0_9])
def test_files_keep_their_times(tmp_path: Path, home_of: Callable[[Path], Home]) -> None:
    """`compact` would take a table from before a `forget` for one without the forgotten user."""
    home = home_of(tmp_path / "home")
    long_ago = 1_000_000_000
    for path in [*home.path.rglob("*"), home.path]:
        os.utime(path, (long_ago, long_ago), follow_symlinks=False)
    upgrade.bring_up_to_date(home)
    tables = [*home.assets.rglob("*.parquet"), *home.study.rglob("*.json"), *home.promotions.glob("*.json")]
    versions = home.assets.rglob("versions/*")
    assert {path.stat().st_mtime for path in (*tables, *versions, home.settings_file, home.tuned_file)} == {long_ago}


def test_settings_of_version_0_9_keep_their_values_and_comments(tmp_path: Path) -> None:
    """The settings of a model would stop every command, or an event type be renamed as a section."""
    home = home_of_0_9(tmp_path / "home")
    upgrade.bring_up_to_date(home)
    settings = Settings.load(home)
    assert (settings.implicit_als.alpha, settings.next_implicit_als.rank) == (2.0, 5)
    assert settings.demographic_popularity.reg == "30"
    assert settings.data.event_weights == {"ranking": 2.0}
    assert settings.study.searches == ["implicit_als", "demographic_popularity_half_life"]
    assert settings.evaluation.selected_ranking_model == "demographic_popularity"
    text = home.settings_file.read_text()
    assert text.count("# mine") == 2 and "# [demographic_popularity]" in text
    assert not (home.path / "studied.toml").exists()


def test_settings_keep_their_values_and_comments(tmp_path: Path) -> None:
    """The columns of somebody's file, or a setting, would fall back to the default or stop every command."""
    home = home_of_0_6(tmp_path / "home")
    upgrade.bring_up_to_date(home)
    settings = Settings.load(home)
    assert settings.data.columns == {"item_id": "movie_id = Film"}
    assert (settings.ease.max_items, settings.user_item_bias.item_shrinkage) == (77, 2.5)
    assert settings.evaluation.selected_next_item_model == "ease"
    text = home.settings_file.read_text()
    assert "(user_id, item_id, rating)." in text and "# mine" in text and "# max_items = 6000" in text


@pytest.mark.parametrize("home_of", [home_of_0_6, home_of_0_9])
def test_an_interrupted_upgrade_is_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home_of: Callable[[Path], Home]
) -> None:
    """After a power cut in the middle, a home would be of neither version, or a promotion have lost its lists."""
    whole = home_of(tmp_path / "whole")
    upgrade.bring_up_to_date(whole)
    expected, n_done, is_done = content(whole), 0, False
    while not is_done:
        broken, left = home_of(tmp_path / str(n_done)), iter(range(n_done))

        def dies(does: Callable[..., Any], left: Iterator[int] = left) -> Callable[..., Any]:
            def step(*given: Any, **named: Any) -> Any:
                if next(left, None) is None:
                    raise KeyboardInterrupt
                return does(*given, **named)

            return step

        with monkeypatch.context() as patch:
            patch.setattr(upgrade, "write_atomically", dies(write_atomically))
            patch.setattr(Path, "replace", dies(Path.replace))
            try:
                upgrade.bring_up_to_date(broken)
                is_done = True
            except KeyboardInterrupt:
                assert broken.format != FORMAT
        upgrade.bring_up_to_date(broken)
        assert content(broken) == expected
        n_done += 1
    assert n_done > 20


def test_an_upgrade_changes_nothing_twice_and_a_new_home_needs_none(tmp_path: Path) -> None:
    """Every command would rewrite all tables, or a new home be taken for an old one."""
    home, new = home_of_0_6(tmp_path / "home"), Home(tmp_path / "new")
    upgrade.bring_up_to_date(home)
    after = content(home)
    assert upgrade.bring_up_to_date(home) is None
    home.format_file.unlink()
    assert upgrade.bring_up_to_date(home) == 0
    assert content(home) == after
    assert upgrade.bring_up_to_date(new) is None
    assert not new.path.exists()
    new.prepare()
    assert new.format == FORMAT
    assert upgrade.bring_up_to_date(new) is None


@pytest.mark.parametrize("home_of", [home_of_0_6, home_of_0_9])
def test_the_first_command_upgrades_and_says_so(tmp_path: Path, home_of: Callable[[Path], Home]) -> None:
    """Somebody with a home of an earlier version would be told that nothing was computed yet."""
    home = home_of(tmp_path / "home")
    shown = invoke("items", "n", "--home", home.path)
    assert "the format of an earlier version" in shown.output
    assert home.format == FORMAT


def test_a_home_in_use_or_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    """A run of the old version would lose its tables under its feet, or a later home be misread."""
    home = home_of_0_6(tmp_path / "home")
    before = content(home)
    with FileLock(home.lock), pytest.raises(RecsysError, match="a run works on it"):
        upgrade.bring_up_to_date(home)
    assert content(home) == before
    home.format_file.write_text(f"{FORMAT + 1}\n")
    shown = invoke("scores", "--home", home.path)
    assert shown.exit_code == 1
    assert "later version" in shown.output


@pytest.mark.parametrize(
    ("home_of", "text", "told"),
    [
        (home_of_0_6, "[data]\ndelimiter = ', max_movies = '\n", r"0\.7.*max_movies is max_items"),
        (home_of_0_9, '[data]\ndelimiter = """\n[liking]\n"""\n', r"0\.10.*\[liking\] is \[demographic_popularity\]"),
        (home_of_0_9, '["\\u006ciking"]\nreg = 3\n', r"0\.10.*\[liking\] is \[demographic_popularity\]"),
    ],
)
def test_settings_that_cannot_be_renamed_are_named(
    tmp_path: Path, home_of: Callable[[Path], Home], text: str, told: str
) -> None:
    """A value would be changed with the name of a setting, or a setting stay behind, and nobody told."""
    home = home_of(tmp_path / "home")
    home.settings_file.write_text(text)
    with pytest.raises(SettingsError, match=rf"settings\.toml.*{told}"):
        upgrade.bring_up_to_date(home)
    assert home.settings_file.read_text() == text


def test_a_section_is_also_found_by_its_earlier_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody with an old settings file or variable would look for the section among all others."""
    home = Home(tmp_path)
    home.settings_file.write_text("[liking]\nreg = 3\n")
    with pytest.raises(SettingsError, match="no setting liking; did you mean demographic_popularity"):
        Settings.load(home)
    monkeypatch.setenv("RECSYS_NEXT_RANKING__RANK", "3")
    with pytest.raises(SettingsError, match="no section 'next_ranking'; did you mean next_implicit_als"):
        Settings.load(home)


def test_damaged_files_of_an_old_home_stop_nothing(tmp_path: Path) -> None:
    """One broken table, which the next run makes again, would keep a home from ever being opened."""
    home = home_of_0_6(tmp_path / "home")
    store = AssetStore(home.assets)
    (store.current(["ratings"]) / "table.parquet").write_bytes(b"PAR1")
    (store.current(["ranking_model"]) / "model.json").write_text("{")
    assert upgrade.bring_up_to_date(home)
    assert (store.current(["implicit_als_model"]) / "model.json").read_text() == "{"
    with pytest.raises(RecsysError, match="damaged"):
        to_polars(scan(store.current(["ratings"])))
