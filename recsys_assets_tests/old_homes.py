"""Homes as earlier versions of the package left them: the smallest that hold every name that has changed since."""

import json
from pathlib import Path
from typing import Any

import polars as pl

from recsys_assets.home.layout import Home
from recsys_assets.home.unfinished import write_atomically
from recsys_assets.home.upgrade import _hash
from recsys_assets.home.versions import AssetStore

_RUN = "20260101T000000000000-0a0b0c0d"
# The configurations that the homes serve.
OF_0_6: dict[str, Any] = {
    "rating": {"model": "item_mean", "settings": {"item_mean": {"shrinkage": 5.0}}},
    "ranking": {"model": "ease", "settings": {"ease": {"max_movies": 77, "reg": "auto"}}},
}
OF_0_9: dict[str, Any] = {
    "rating": {"model": "stack", "settings": {"stack": {"reg": 1.0}}},
    "ranking": {"model": "liking", "settings": {"liking": {"reg": 3.0}, "ranking": {"rank": 3}}},
}
_SETTINGS_OF_0_6 = """# Your column names by standard name (user_id, movie_id, rating).
[data.columns]
movie_id = "movie_id = Film" # mine
[ease]
# max_movies = 6000
max_movies = 77
[user_item_bias]
movie_shrinkage = 2.5
"""
_SETTINGS_OF_0_9 = """next_ranking.rank = 5 # mine
# Implicit ALS for top N.
[ranking]
# rank = 32
alpha = 2.0
[data.event_weights]
ranking = 2.0
# [liking]
[study]
searches = [
  "ranking", # mine
  'liking_age',
]
[evaluation]
selected_ranking_model = "liking"
"""


def version(home: Home, asset: str, files: dict[str, Any], partition: str | None = None) -> None:
    """A stored version of an asset: tables from frames, JSON from dicts."""
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


def home_of_0_6(folder: Path) -> Home:
    """Format 1: one batch, tables, models, promotions, a trial, settings of the user and an exclusion list.

    Its names are those of 0.4 and 0.5, too.
    """
    home = Home(folder)
    home.path.mkdir(parents=True)
    home.settings_file.write_text(_SETTINGS_OF_0_6)
    (home.path / "studied.toml").write_text('[evaluation]\nselected_next_movie_model = "ease"\n')
    home.landing.mkdir()
    (home.landing / "a.csv").write_text("user_id,movie_id,rating,timestamp\nann,m,4,1\n")
    rated = pl.DataFrame({"user": [0, 0], "movie": [0, 1], "rating": [4.0, 2.5]}).cast({"movie": pl.Int32})
    raw = pl.DataFrame({"user_id": ["ann"], "item": ["hat"], "movies": [3]})
    version(home, "raw_users", {"table.parquet": raw}, "movies")
    version(home, "raw_movies", {"table.parquet": pl.DataFrame({"movie_id": ["m"], "title": ["movie"]})}, "movies")
    version(home, "users", {"table.parquet": pl.DataFrame({"user": [0], "user_id": ["ann"]})})
    movies = pl.DataFrame({"movie": [0, 1], "movie_id": ["m", "n"], "title": ["M", "N"], "genres": [[], ["Drama"]]})
    version(home, "movies", {"table.parquet": movies})
    version(home, "ratings", {"table.parquet": rated, ".numbering.json": {"movies": [2, "f"], "users": [1, "g"]}})
    version(home, "predictions/next_movie/ease", {"table.parquet": rated.select("user", "movie")})
    version(home, "ranking_model", {"movie_factors.parquet": rated.select("movie"), "model.json": {"n_movies": 2}})
    metrics = pl.DataFrame(
        {"metric": ["next_movie_hit_10_gain", "top5_rating", "rmse"], "model": "movies", "value": 0.5}
    )
    version(home, "evaluation_scores", {"table.parquet": metrics})
    version(home, "segment_shares", {"state/segments.json": {"names": ["next_movie", "max_movies"]}})
    _serve(home, OF_0_6, {"metric": "top5_rating", "model": "item_mean"})
    question = {"task": "next_movie", "parameters": {"ease": {"max_movies": 7}}}
    trial = {"question": question, "scores": {"all": {"next_movie_hit_10": 0.25}}}
    write_atomically(home.study / "trials" / "quick" / "0123456789abcdef.json", json.dumps(trial).encode())
    home.forgotten.write_text('"eve"\n')
    return home


def home_of_0_9(folder: Path) -> Home:
    """Format 2, with a batch, an attribute and ids that have names of models, as a user may call them."""
    home = Home(folder)
    home.path.mkdir(parents=True)
    home.format_file.write_text("2\n")
    home.settings_file.write_text(_SETTINGS_OF_0_9)
    (home.path / "studied.toml").write_text('[liking]\nreg = 30.0\n[study]\nsearches = ["als"]\n')
    home.landing.mkdir()
    (home.landing / "last_out").write_text("user_id,item_id,rating,timestamp\nann,m,4,1\n")
    raw = pl.DataFrame({"item_id": ["liking"], "model": ["ranking"], "movie": ["last_out"], "knob": ["liking.reg"]})
    version(home, "raw_items", {"table.parquet": raw}, "last_out")
    version(home, "users", {"table.parquet": pl.DataFrame({"user": [0], "user_id": ["ann"]})})
    items = raw.with_columns(item=pl.lit(0, pl.Int32), title=pl.lit("liking"), genres=pl.lit([], pl.List(pl.String)))
    version(home, "items", {"table.parquet": items.select("item", "item_id", "title", "genres", "model", "movie")})
    rated = pl.DataFrame({"user": [0], "item": [0], "rating": [4.0]})
    merged = {"state/merged_with.json": {"sample": {"share": 0.5}}}
    version(home, "ratings", {"table.parquet": rated, ".numbering.json": {"items": [1, "f"]}, **merged})
    for asset in ("liking_model", "ranking_model", "history_ranking_model", "als_model", "als_model_unadjusted"):
        version(home, asset, {"model.json": {"name": asset, "liking": {"ranking": 1}}})
    version(home, "predictions/top_n/liking", {"table.parquet": rated})
    version(home, "quick_choice", {"choice.json": {"liking.reg": 3.0, "evaluation.selected_ranking_model": "liking"}})
    scores = pl.DataFrame(
        {"protocol": ["top_n", "last_out"], "model": ["liking", "als_adjusted"], "metric": "rmse", "value": 0.5}
    )
    version(home, "evaluation_scores", {"table.parquet": scores})
    version(home, "study_scores", {"table.parquet": scores}, "top_n_last_out")
    choices = pl.DataFrame(
        {
            "knob": ["ranking.rank", "liking.half_life", "evaluation.selected_ranking_model"],
            "chosen": ["16", '"auto * 3"', '"liking"'],
            "slice": ["top_n", "last_out", "top_n"],
            "search": ["ranking", "liking_age", "selected_ranking_model"],
        }
    )
    version(home, "studied_settings", {"table.parquet": choices})
    scored = home.study / "scores" / "last_out"
    (scored / "0123456789abcdef").mkdir(parents=True)
    scores.write_parquet(scored / "0123456789abcdef" / "scores.parquet")
    (scored / "newest").write_text("0123456789abcdef")
    _serve(home, OF_0_9, {"metric": "ndcg_10", "model": "liking", "opponent": f"liking {_hash(OF_0_9)}"})
    served = {"name": "liking", "models": ["liking_model", "ranking_model"], "index": "f"}
    files = {f"{name}/model.json": {"index": "f"} for name in served["models"]}
    version(home, "serving_model", {"model.json": served, "made_with.json": {"configuration": _hash(OF_0_9)}, **files})
    question = {"slice": "last_out", "model": "liking", "parameters": {"liking": {"reg": 3.0}, "ranking": {"rank": 2}}}
    write_atomically(
        home.study / "trials" / "last_out" / "0123456789abcdef.json", json.dumps({"question": question}).encode()
    )
    home.forgotten.write_text('"eve"\n')
    return home


def _serve(home: Home, configuration: dict[str, Any], contest: dict[str, Any]) -> None:
    """Two promotions of one configuration, and the lists that were made with it."""
    name = _hash(configuration)
    version(home, "serving_model", {"made_with.json": {"configuration": name}})
    version(home, "recommendations", {"state/made_with.json": {"configuration": name}})
    told = {"configuration": configuration, "contests": [contest], "reason": f"as good as {name}"}
    for number in (1, 2):
        write_atomically(home.promotions / f"{number:06}.json", json.dumps(told | {"number": number}).encode())


def content(home: Home) -> dict[str, Any]:
    """Every file of a home by its path, but locks; tables as rows with names and types."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in home.path.rglob("*") if path.is_file() and not path.name.endswith("lock")):
        frame = pl.read_parquet(path) if path.suffix == ".parquet" else None
        name = str(path.relative_to(home.path))
        found[name] = path.read_bytes() if frame is None else (dict(frame.schema), frame.rows())
    return found
