"""Names that earlier formats of a home use, and the names that the next format uses instead. `upgrade` applies them.

Format 2 (version 0.7) says `item` where format 1 says `movie`. Format 3 (version 0.10) has one name per model. Format 4
(version 0.11) says `validation_split` where format 3 says `slice`.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import PurePath
from typing import Any, ClassVar


class Format:
    """What one format of a home renames; nothing, unless a format says otherwise.

    Attributes:
        number: number of the format.
        version: the first version of the package with this format.
        paths: new by old name of files and folders, by a glob pattern of the folder they are in; below the home.
        files: new by old name of files in versions of assets.
        settings_files: new by old name of the files with settings.
        settings: new by old name of settings, for people.
    """

    number: ClassVar[int]
    version: ClassVar[str]
    paths: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    files: ClassVar[Mapping[str, str]] = {}
    settings_files: ClassVar[Mapping[str, str]] = {}
    settings: ClassVar[Mapping[str, str]] = {}

    def toml(self, text: str) -> str:
        """The text of a settings file with the new names, also in its comments."""
        return text

    def parsed(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The content of a settings file with the new names."""
        return dict(settings)

    def json(self, place: PurePath, value: Any) -> Any:
        """The content of a JSON file with the new names; `place` is the path below the home."""
        del place
        return value

    def columns(self, place: PurePath) -> Mapping[str, str]:
        """New by old name of the columns of a table; `place` is the path below the home."""
        del place
        return {}

    def columns_of_names(self, place: PurePath) -> Collection[str]:
        """Columns of a table whose values are names."""
        del place
        return ()

    def text(self, value: str) -> str:
        """A value of such a column with the new names."""
        return value


def _any_of(names: Iterable[str]) -> str:
    """A pattern that prefers longer names."""
    return "|".join(sorted(names, key=len, reverse=True))


class _Items(Format):
    number, version = 2, "0.7"
    paths: ClassVar = {
        "assets": {
            "movies": "items",
            "raw_movies": "raw_items",
            "segment_movies": "segment_items",
            "predictions/next_movie": "predictions/next_item",
        }
    }
    files: ClassVar = {"movies.parquet": "items.parquet", "movie_factors.parquet": "item_factors.parquet"}
    settings_files: ClassVar = {name: name for name in ("settings.toml", "studied.toml")}
    settings: ClassVar = {
        "max_movies": "max_items",
        "movie_shrinkage": "item_shrinkage",
        "selected_next_movie_model": "selected_next_item_model",
        "movie_id": "item_id",
    }
    # Settings, metrics, tasks, facts of models, tables of the id map.
    _names: ClassVar = settings | {
        "n_movies": "n_items",
        "movies": "items",
        "next_movie": "next_item",
        "next_movie_hit": "next_item_hit",
        "top5_rating": "top5pct_rating",
        "top5_rating_published": "top5pct_rating_published",
    }
    # Values in JSON files that are a name as a whole: features of the stack for the latest rating.
    _features: ClassVar = {"movie_bias": "item_bias"}
    # An attribute of an item can have none of the old names, because they were names of the pipeline. An attribute of a
    # user that has the new name of a column gets an underscore.
    _of_items: ClassVar = {"movie": "item", "movie_id": "item_id"}
    _of_users: ClassVar = {"item": "item_", "item_id": "item_id_"}
    # A name, also behind its section (`ease.max_movies`) or with an ending (`next_movie_hit_10_gain`).
    _name = re.compile(rf"\b({_any_of(_names)})((?:_\d+)?(?:_gain)?)\b")
    # The key of a setting, also one that is commented out.
    _key = re.compile(rf"(?<![\w\"'-])([\"']?)({_any_of(settings)})\1(?=\s*=)")
    _comment = re.compile(r"^\s*#.*$", re.MULTILINE)

    def toml(self, text: str) -> str:
        told = self._comment.sub(lambda comment: re.sub(r"\bmovie_id\b", "item_id", comment[0]), text)
        return self._key.sub(lambda found: f"{found[1]}{self.settings[found[2]]}{found[1]}", told)

    def parsed(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        def renamed(value: Any) -> Any:
            return self.parsed(value) if isinstance(value, dict) else value

        return {self.settings.get(name, name): renamed(value) for name, value in settings.items()}

    def json(self, place: PurePath, value: Any) -> Any:
        del place
        return self._json(value)

    def _json(self, value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {self.text(name): self._json(part, name) for name, part in value.items()}
        if isinstance(value, list):
            return [self._json(part) for part in value]
        if key in ("metric", "task") and isinstance(value, str):
            return self.text(value)
        return self._features.get(value, value) if isinstance(value, str) else value

    def columns(self, place: PurePath) -> Mapping[str, str]:
        is_of_users = place.parts[0] == "assets" and place.parts[1] in ("raw_users", "users")
        return self._of_users if is_of_users else self._of_items

    def columns_of_names(self, place: PurePath) -> Collection[str]:
        del place
        return ("metric", "search", "candidate", "knob")

    def text(self, value: str) -> str:
        return self._name.sub(lambda found: self._names[found[1]] + found[2], value)


_PROTOCOLS = {"last_out": "leave_last_out", "top_n_last_out": "top_n_leave_last_out"}
_MODELS = {
    "liking_model": "demographic_popularity_model",
    "ranking_model": "implicit_als_model",
    "history_ranking_model": "history_implicit_als_model",
    "als_model": "als_adjusted_model",
    "als_model_unadjusted": "als_unadjusted_model",
}


class _OneNamePerModel(Format):
    number, version = 3, "0.10"
    sections: ClassVar = {
        "ranking": "implicit_als",
        "next_ranking": "next_implicit_als",
        "liking": "demographic_popularity",
    }
    _searches: ClassVar = {
        "ranking": "implicit_als",
        "liking": "demographic_popularity",
        "liking_age": "demographic_popularity_half_life",
    }
    _per_protocol = ("study_trials", "study_scores", "user_scores", "paired_tests")
    _results = (*_per_protocol, "evaluation_scores", "backtest_scores", "leakage_audit", "segment_sweep")
    _choices = ("studied_settings", "tuned_settings")
    paths: ClassVar = {
        "assets": {
            **_MODELS,
            "studied_settings": "tuned_settings",
            "predictions/top_n/liking": "predictions/top_n/demographic_popularity",
        },
        "assets/serving_model/versions/*": _MODELS,
        **{f"assets/{asset}/batches": _PROTOCOLS for asset in _per_protocol},
        "study/*": _PROTOCOLS,
    }
    files: ClassVar = {".numbering.json": ".id_map.json"}
    settings_files: ClassVar = {"settings.toml": "settings.toml", "studied.toml": "tuned.toml"}
    settings: ClassVar = {
        **{f"[{old}]": f"[{new}]" for old, new in sections.items()},
        **{f'"{old}"': f'"{new}"' for old, new in _searches.items()},
    }
    _texts: ClassVar = _PROTOCOLS | _MODELS | _searches
    # `ranking` is a name only as a whole, or as the section of a setting (`ranking.rank`).
    _name = re.compile(rf"\b({_any_of(_texts.keys() - {'ranking'})})\b|^(ranking)$|\b({_any_of(sections)})(?=\.[a-z])")
    # The header of a section, and keys before the first header; also commented out.
    _header = re.compile(rf"^([ \t]*#?[ \t]*\[[ \t]*[\"']?)({_any_of(sections)})(?=[\"']?[ \t]*[\].])", re.MULTILINE)
    _key = re.compile(rf"^([ \t]*#?[ \t]*[\"']?)({_any_of(sections)})(?=[\"']?[ \t]*[.=])", re.MULTILINE)
    _any_header = re.compile(r"^[ \t]*\[", re.MULTILINE)
    # Settings whose values are names.
    _valued = re.compile(
        r"\bsearches[\"']?\s*=\s*\[(?:#[^\n]*|[^\]#])*\]|\bselected_ranking_model[\"']?\s*=\s*[\"']\w*[\"']"
    )
    _quoted = re.compile(rf"(?<=[\"'])({_any_of(_searches)})(?=[\"'])")

    def toml(self, text: str) -> str:
        def section(found: re.Match[str]) -> str:
            return found[1] + self.sections[found[2]]

        def values(found: re.Match[str]) -> str:
            return self._quoted.sub(lambda name: self._searches[name[1]], found[0])

        first = self._any_header.search(text)
        top = first.start() if first else len(text)
        return self._valued.sub(values, self._key.sub(section, text[:top]) + self._header.sub(section, text[top:]))

    def parsed(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        renamed = {self.sections.get(name, name): value for name, value in settings.items()}
        for section, name in (("evaluation", "selected_ranking_model"), ("study", "searches")):
            if isinstance(part := renamed.get(section), dict) and name in part:
                renamed[section] = part | {name: self._value(part[name])}
        return renamed

    def _value(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._value(part) for part in value]
        return self._searches.get(value, value) if isinstance(value, str) else value

    def json(self, place: PurePath, value: Any) -> Any:
        of_home, of_asset = place.parts[0], place.parts[1]
        is_served = of_asset == "serving_model" and len(place.parts) == 5
        is_named = of_home != "assets" or of_asset in ("promoted_configuration", "quick_choice") or is_served
        return self._json(value) if is_named else value

    def _json(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {self._key_of(name, part): self._json(part) for name, part in value.items()}
        if isinstance(value, list):
            return [self._json(part) for part in value]
        return self.text(value) if isinstance(value, str) else value

    def _key_of(self, name: str, part: Any) -> str:
        """The key of a section; `ranking` is also the key of a configuration's ranking model."""
        if isinstance(part, dict) and "model" not in part:
            return self.sections.get(name, name)
        return name if name in self.sections else self.text(name)

    def columns(self, place: PurePath) -> Mapping[str, str]:
        return {"knob": "setting"} if place.parts[1] in self._choices else {}

    def columns_of_names(self, place: PurePath) -> Collection[str]:
        # Elsewhere, such a column is an attribute of users or items.
        if place.parts[0] == "assets" and place.parts[1] not in (*self._results, *self._choices):
            return ()
        return ("protocol", "slice", "model", "baseline", "search", "candidate", "knob", "setting", "chosen", "default")

    def text(self, value: str) -> str:
        def renamed(found: re.Match[str]) -> str:
            return self._texts[found[1] or found[2]] if found[1] or found[2] else self.sections[found[3]]

        return self._name.sub(renamed, value)


class _ValidationSplits(Format):
    number, version = 4, "0.11"
    # Ratings that an early 0.11 merged have the first name.
    files: ClassVar = {"merged_with.json": "model.json"}

    def json(self, place: PurePath, value: Any) -> Any:
        is_old = place.name in self.files and isinstance(value, dict) and "settings" not in value
        return {"settings": value} if is_old else value

    def columns(self, place: PurePath) -> Mapping[str, str]:
        return {"slice": "validation_split"} if place.parts[1] in ("study_trials", "tuned_settings") else {}


FORMATS: tuple[Format, ...] = (_Items(), _OneNamePerModel(), _ValidationSplits())
# Sections of the settings that somebody may still name as before.
EARLIER_SECTIONS: Mapping[str, str] = _OneNamePerModel.sections
