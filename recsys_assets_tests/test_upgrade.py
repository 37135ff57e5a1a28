"""Homes of earlier versions: brought to the present names, whatever interrupts that, and never read half."""

import json
import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from filelock import FileLock

from recsys_assets.errors import RecsysError
from recsys_assets.home import upgrade
from recsys_assets.home.layout import FORMAT, Home
from recsys_assets.home.settings import Settings, SettingsError
from recsys_assets.home.versions import AssetStore, load, scan, write_atomically
from recsys_assets.recommender.data.frames import to_polars
from recsys_assets.recommender.serving.recommendations import MadeWith
from recsys_assets_tests.conftest import invoke

_RUN = "20260101T000000000000-0a0b0c0d"
_OLD = {
    "rating": {"model": "item_mean", "settings": {"item_mean": {"shrinkage": 5.0}}},
    "ranking": {"model": "ease", "settings": {"ease": {"max_movies": 77, "reg": "auto"}}},
}
_SETTINGS = """# Your column names by standard name (user_id, movie_id, rating).
[data.columns]
movie_id = "movie_id = Film" # mine
[ease]
# max_movies = 6000
max_movies = 77
[user_item_bias]
movie_shrinkage = 2.5
"""


def _version(home: Home, asset: str, files: dict[str, Any], partition: str | None = None) -> None:
    """A stored version of an asset, as version 0.6 wrote it: tables from rows, JSON from dicts."""
    store = AssetStore(home.assets)
    folder = store.folder(asset.split("/"), partition) / "versions" / _RUN
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, pl.DataFrame):
            content.write_parquet(path)
        else:
            path.write_text(json.dumps(content))
    store.switch(folder)


def _old_home(folder: Path) -> Home:
    """A home as version 0.6 left it: one batch, tables, models, a promotion, a trial and settings of the user."""
    home = Home(folder)
    home.path.mkdir(parents=True)
    home.settings_file.write_text(_SETTINGS)
    home.studied_file.write_text('[evaluation]\nselected_next_movie_model = "ease"\n')
    home.landing.mkdir()
    (home.landing / "a.csv").write_text("user_id,movie_id,rating,timestamp\nann,m,4,1\n")
    rated = pl.DataFrame({"user": [0, 0], "movie": [0, 1], "rating": [4.0, 2.5]}).cast({"movie": pl.Int32})
    raw = pl.DataFrame({"user_id": ["ann"], "item": ["hat"], "movies": [3]})
    _version(home, "raw_users", {"table.parquet": raw}, "movies")
    _version(home, "raw_movies", {"table.parquet": pl.DataFrame({"movie_id": ["m"], "title": ["movie"]})}, "movies")
    _version(home, "users", {"table.parquet": pl.DataFrame({"user": [0], "user_id": ["ann"]})})
    _version(home, "movies", {"table.parquet": pl.DataFrame({"movie": [0, 1], "movie_id": ["m", "n"]})})
    _version(home, "ratings", {"table.parquet": rated, ".numbering.json": {"movies": [2, "f"], "users": [1, "g"]}})
    _version(home, "predictions/next_movie/ease", {"table.parquet": rated.select("user", "movie")})
    _version(home, "ranking_model", {"movie_factors.parquet": rated.select("movie"), "model.json": {"n_movies": 2}})
    metrics = pl.DataFrame(
        {"metric": ["next_movie_hit_10_gain", "top5_rating", "rmse"], "model": "movies", "value": 0.5}
    )
    _version(home, "evaluation_scores", {"table.parquet": metrics})
    _version(home, "segment_shares", {"state/segments.json": {"names": ["next_movie", "max_movies"]}})
    name = upgrade._hash(_OLD)
    _version(home, "serving_model", {"made_with.json": {"configuration": name}})
    _version(home, "recommendations", {"state/made_with.json": {"configuration": name}})
    contest = {"metric": "top5_rating", "model": "item_mean"}
    told = {"configuration": _OLD, "contests": [contest], "reason": f"as good as {name}", "number": 1}
    for number in (1, 2):
        write_atomically(home.promotions / f"{number:06}.json", json.dumps(told | {"number": number}).encode())
    question = {"task": "next_movie", "parameters": {"ease": {"max_movies": 7}}}
    trial = {"question": question, "scores": {"all": {"next_movie_hit_10": 0.25}}}
    write_atomically(home.study / "trials" / "quick" / "0123456789abcdef.json", json.dumps(trial).encode())
    home.forgotten.write_text('"eve"\n')
    return home


def _content(home: Home) -> dict[str, Any]:
    """Every file of a home by its path, but locks; tables as rows with names and types."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in home.path.rglob("*") if path.is_file() and not path.name.endswith("lock")):
        frame = pl.read_parquet(path) if path.suffix == ".parquet" else None
        name = str(path.relative_to(home.path))
        found[name] = path.read_bytes() if frame is None else (dict(frame.schema), frame.rows())
    return found


def test_a_home_of_version_0_6_keeps_everything_under_the_present_names(tmp_path: Path) -> None:
    """Whoever installs the new version would have lost the id map, models, settings or decisions of the home."""
    home = _old_home(tmp_path / "home")
    before = _content(home)
    assert upgrade.bring_up_to_date(home)
    assert home.format == FORMAT
    store = AssetStore(home.assets)
    assert to_polars(scan(store.current(["items"]))).rows(named=True)[1] == {"item": 1, "item_id": "n"}
    raw = to_polars(scan(store.current(["raw_items"], "movies")))
    assert raw.rows(named=True) == [{"item_id": "m", "title": "movie"}]
    # An attribute would have the name of the column of items.
    assert scan(store.current(["raw_users"], "movies")).collect_schema().names() == ["user_id", "item_", "movies"]
    ratings = pl.read_parquet(store.current(["ratings"]) / "table.parquet")
    assert ratings.schema == {"user": pl.Int64, "item": pl.Int32, "rating": pl.Float64}
    assert json.loads((store.current(["ratings"]) / ".numbering.json").read_text()).keys() == {"items", "users"}
    assert store.has(["predictions", "next_item", "ease"])
    model = store.current(["ranking_model"])
    assert pl.read_parquet(model / "item_factors.parquet").columns == ["item"]
    assert json.loads((model / "model.json").read_text()) == {"n_items": 2}
    scores = to_polars(scan(store.current(["evaluation_scores"])))
    assert scores.rows() == [(m, "movies", 0.5) for m in ("next_item_hit_10_gain", "top5pct_rating", "rmse")]
    segments = json.loads((store.current(["segment_shares"]) / "state" / "segments.json").read_text())
    assert segments == {"names": ["next_movie", "max_movies"]}
    trial = json.loads(next(home.study.rglob("*.json")).read_text())
    assert trial["question"] == {"task": "next_item", "parameters": {"ease": {"max_items": 7}}}
    assert trial["scores"] == {"all": {"next_item_hit_10": 0.25}}
    after = _content(home)
    assert all(after[name] == before[name] for name in ("landing/a.csv", "forgotten"))
    assert len(after) == len(before) + 1


def test_the_served_lists_stay_those_of_their_promotion(tmp_path: Path) -> None:
    """A promoted configuration has another name after the upgrade: the lists would count as made by nobody."""
    home = _old_home(tmp_path / "home")
    assert upgrade.bring_up_to_date(home)
    record = json.loads((home.promotions / "000002.json").read_text())
    name = upgrade._hash(record["configuration"])
    assert record["configuration"]["ranking"]["settings"]["ease"] == {"max_items": 77, "reg": "auto"}
    assert record["contests"][0]["metric"] == "top5pct_rating"
    assert record["reason"] == f"as good as {name}"
    store = AssetStore(home.assets)
    assert load(MadeWith, store.current(["serving_model"])).configuration == name
    assert load(MadeWith, store.current(["recommendations"]) / "state").configuration == name


def test_files_keep_their_times(tmp_path: Path) -> None:
    """`compact` would take a table from before a `forget` for one without the forgotten user."""
    home = _old_home(tmp_path / "home")
    long_ago = 1_000_000_000
    for path in [*home.path.rglob("*"), home.path]:
        os.utime(path, (long_ago, long_ago), follow_symlinks=False)
    upgrade.bring_up_to_date(home)
    tables = [*home.assets.rglob("*.parquet"), *home.study.rglob("*.json"), *home.promotions.glob("*.json")]
    versions = home.assets.rglob("versions/*")
    assert {path.stat().st_mtime for path in (*tables, *versions, home.settings_file)} == {long_ago}


def test_settings_keep_their_values_and_comments(tmp_path: Path) -> None:
    """The columns of somebody's file, or a setting, would fall back to the default or stop every command."""
    home = _old_home(tmp_path / "home")
    upgrade.bring_up_to_date(home)
    settings = Settings.load(home)
    assert settings.data.columns == {"item_id": "movie_id = Film"}
    assert (settings.ease.max_items, settings.user_item_bias.item_shrinkage) == (77, 2.5)
    assert settings.evaluation.selected_next_item_model == "ease"
    text = home.settings_file.read_text()
    assert "(user_id, item_id, rating)." in text and "# mine" in text and "# max_items = 6000" in text


@pytest.mark.parametrize("n_done", [0, 1, 2, 5, 9, 13, 17, 20])
def test_an_interrupted_upgrade_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_done: int) -> None:
    """After a power cut in the middle, a home would be of neither version, or a promotion have lost its lists."""
    whole, broken = _old_home(tmp_path / "whole"), _old_home(tmp_path / "broken")
    upgrade.bring_up_to_date(whole)
    left = [n_done]

    def dies(does: Callable[..., Any]) -> Callable[..., Any]:
        def step(*given: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return does(*given, **named)

        return step

    with monkeypatch.context() as patch:
        patch.setattr(upgrade, "write_atomically", dies(write_atomically))
        patch.setattr(Path, "replace", dies(Path.replace))
        patch.setattr(Path, "rename", dies(Path.rename))
        with pytest.raises(KeyboardInterrupt):
            upgrade.bring_up_to_date(broken)
    assert broken.format != FORMAT
    upgrade.bring_up_to_date(broken)
    assert _content(broken) == _content(whole)


def test_an_upgrade_changes_nothing_twice_and_a_new_home_needs_none(tmp_path: Path) -> None:
    """Every command would rewrite all tables, or a new home be taken for an old one."""
    home, new = _old_home(tmp_path / "home"), Home(tmp_path / "new")
    upgrade.bring_up_to_date(home)
    after = _content(home)
    assert upgrade.bring_up_to_date(home) is None
    home.format_file.unlink()
    assert upgrade.bring_up_to_date(home) == 0
    assert _content(home) == after
    assert upgrade.bring_up_to_date(new) is None
    assert not new.path.exists()
    new.prepare()
    assert new.format == FORMAT
    assert upgrade.bring_up_to_date(new) is None


def test_the_first_command_upgrades_and_says_so(tmp_path: Path) -> None:
    """Somebody with a home of version 0.6 would be told that nothing was computed yet."""
    home = _old_home(tmp_path / "home")
    shown = invoke("items", "n", "--home", home.path)
    assert "of an earlier version" in shown.output
    assert home.format == FORMAT


def test_a_home_in_use_or_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    """A run of the old version would lose its tables under its feet, or a later home be misread."""
    home = _old_home(tmp_path / "home")
    before = _content(home)
    with FileLock(home.lock), pytest.raises(RecsysError, match="a run works on it"):
        upgrade.bring_up_to_date(home)
    assert _content(home) == before
    home.format_file.write_text(f"{FORMAT + 1}\n")
    shown = invoke("scores", "--home", home.path)
    assert shown.exit_code == 1
    assert "later version" in shown.output


def test_settings_that_cannot_be_renamed_are_named(tmp_path: Path) -> None:
    """A value would be changed with the name of a setting, and nobody told."""
    home = _old_home(tmp_path / "home")
    home.settings_file.write_text("[data]\ndelimiter = ', max_movies = '\n")
    with pytest.raises(SettingsError, match=r"settings\.toml.*max_movies is max_items"):
        upgrade.bring_up_to_date(home)
    assert tomllib.loads(home.settings_file.read_text()) == {"data": {"delimiter": ", max_movies = "}}


def test_damaged_files_of_an_old_home_stop_nothing(tmp_path: Path) -> None:
    """One broken table, which the next run makes again, would keep a home from ever being opened."""
    home = _old_home(tmp_path / "home")
    store = AssetStore(home.assets)
    (store.current(["ratings"]) / "table.parquet").write_bytes(b"PAR1")
    (store.current(["ranking_model"]) / "model.json").write_text("{")
    assert upgrade.bring_up_to_date(home)
    assert (store.current(["ranking_model"]) / "model.json").read_text() == "{"
    with pytest.raises(RecsysError, match="damaged"):
        to_polars(scan(store.current(["ratings"])))
