"""Names of versions before 0.7 that a home can hold, and the present ones. `upgrade` applies them.

Format 2 of a home, of version 0.7, says `item` where format 1 said `movie`.
"""

import re

# Assets and groups of assets: folders below `assets/`.
ASSETS = {
    "movies": "items",
    "raw_movies": "raw_items",
    "segment_movies": "segment_items",
    "predictions/next_movie": "predictions/next_item",
}
# Files inside the versions of models.
FILES = {"movies.parquet": "items.parquet", "movie_factors.parquet": "item_factors.parquet"}
# An attribute can have none of the old names, because they were names of the pipeline.
COLUMNS = {"movie": "item", "movie_id": "item_id"}
SETTINGS = {
    "max_movies": "max_items",
    "movie_shrinkage": "item_shrinkage",
    "selected_next_movie_model": "selected_next_item_model",
    "movie_id": "item_id",
}
# Names in JSON files: settings, metrics, tasks, facts of models, tables of the id map.
NAMES = SETTINGS | {
    "n_movies": "n_items",
    "movies": "items",
    "next_movie": "next_item",
    "next_movie_hit": "next_item_hit",
    "top5_rating": "top5pct_rating",
    "top5_rating_published": "top5pct_rating_published",
}
# Texts in JSON files that are a name as a whole: features of the stack for the latest rating.
FEATURES = {"movie_bias": "item_bias"}
# Columns of text that hold such names.
NAMING_COLUMNS = ("metric", "search", "candidate", "knob")
# Attributes of users that got an underscore because they have the present name of a column of the pipeline.
USER_TABLES = ("raw_users", "users")
ATTRIBUTES = {"item": "item_", "item_id": "item_id_"}

# A name, also behind the name of its section (`ease.max_movies`) or with an ending (`next_movie_hit_10_gain`).
PATTERN = rf"\b({'|'.join(sorted(NAMES, key=len, reverse=True))})((?:_\d+)?(?:_gain)?)\b"
_NAME = re.compile(PATTERN)
# The key of a setting in TOML, also one that is commented out.
_KEY = re.compile(rf"(?<![\w\"'-])([\"']?)({'|'.join(SETTINGS)})\1(?=\s*=)")
_COMMENT = re.compile(r"^\s*#.*$", re.MULTILINE)


def present_name(text: str) -> str:
    """The text with the present names."""
    return _NAME.sub(lambda found: NAMES[found[1]] + found[2], text)


def present_settings(toml: str) -> str:
    """A settings file with the present names of settings, in comments, too. Values stay as they are."""
    told = _COMMENT.sub(lambda comment: re.sub(r"\bmovie_id\b", SETTINGS["movie_id"], comment[0]), toml)
    return _KEY.sub(lambda found: f"{found[1]}{SETTINGS[found[2]]}{found[1]}", told)
