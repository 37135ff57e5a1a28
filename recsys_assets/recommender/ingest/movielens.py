"""Reads the MovieLens releases without headers (100K, 1M, 10M): files, columns and codes.

Later releases are CSV files with headers; reading them belongs in `generic`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import polars as pl

from recsys_assets.recommender.ingest.archives import Source
from recsys_assets.recommender.ingest.catalogue import judge_items, judge_users
from recsys_assets.recommender.ingest.detect import DELIMITED, Content
from recsys_assets.recommender.ingest.errors import SourceError
from recsys_assets.recommender.ingest.source_tables import SourceTables
from recsys_assets.recommender.ingest.text import scan_fields, utf8_or_latin1_text
from recsys_assets.recommender.ingest.times import SECONDS
from recsys_assets.recommender.ingest.validation import Rules, judge_ratings

# README of ml-1m, "Occupation is chosen from the following choices".
OCCUPATIONS_1M = (
    "other",
    "academic/educator",
    "artist",
    "clerical/admin",
    "college/grad student",
    "customer service",
    "doctor/health care",
    "executive/managerial",
    "farmer",
    "homemaker",
    "K-12 student",
    "lawyer",
    "programmer",
    "retired",
    "sales/marketing",
    "scientist",
    "self-employed",
    "technician/engineer",
    "tradesman/craftsman",
    "unemployed",
    "writer",
)
# Files of a release, and its required files: 10M has the format of 1M, but no users file.
_ROLES = {"100k": ("ratings", "items", "users", "genres"), "dat": ("ratings", "items", "users")}
_NEEDED = {"100k": _ROLES["100k"], "dat": ("ratings", "items")}
_MOST = 0.5
_HIGHEST = 5
_DAT_RATING = re.compile(r"\d+::\d+::(\d+(?:\.\d+)?)::\d+$")
_RATING_FIELDS = ("user_id", "item_id", "rating", "timestamp")
_ITEM_FIELDS = ("item_id", "title", "release_date", "video_release_date", "imdb_url")


@dataclass(frozen=True)
class Shape:
    """Format of one file of a release: its original name, the pattern of its lines and an example line."""

    name: str
    pattern: re.Pattern[str]
    example: str


_SHAPES: Mapping[tuple[str, str], Shape] = {
    ("100k", "ratings"): Shape("u.data", re.compile(r"\d+\t\d+\t\d\t\d+$"), "196<tab>242<tab>3<tab>881250949"),
    ("100k", "users"): Shape("u.user", re.compile(r"\d+\|\d+\|[MF]\|[^|]*\|[^|]*$"), "1|24|M|technician|85711"),
    ("100k", "items"): Shape(
        "u.item",
        re.compile(r"\d+\|[^|]*\|[^|]*\|[^|]*\|[^|]*(\|[01])+$"),
        "1|Toy Story (1995)|01-Jan-1995||http://…|0|0|…",
    ),
    ("100k", "genres"): Shape("u.genre", re.compile(r"[^|]+\|\d+$"), "Action|1"),
    ("dat", "ratings"): Shape("ratings.dat", re.compile(r"\d+::\d+::\d(\.\d)?::\d+$"), "1::1193::5::978300760"),
    ("dat", "users"): Shape("users.dat", re.compile(r"\d+::[MF]::\d+::\d+::[^:]*$"), "1::F::1::10::48067"),
    ("dat", "items"): Shape(
        "movies.dat",
        re.compile(r"\d+::((?!::).)+::((?!::).)*$"),
        "1::Toy Story (1995)::Animation|Children's|Comedy",
    ),
}


@dataclass(frozen=True)
class Recognised:
    """A recognised file of a release: its name, family of releases and role."""

    name: str
    family: str
    role: str

    @property
    def is_original_name(self) -> bool:
        """Whether the file has its original name in the release."""
        return PurePosixPath(self.name).name == _SHAPES[self.family, self.role].name

    @property
    def folder(self) -> str:
        """Folder of the file inside the source."""
        return PurePosixPath(self.name).parent.as_posix()


def is_look_alike(content: Content) -> bool:
    """Whether a file has lines like ratings of 1M and 10M, but ratings above 5, as MovieTweetings has."""
    ratings = [float(found[1]) for line in content.lines if (found := _DAT_RATING.match(line))]
    return 2 * len(ratings) > len(content.lines) and sum(rating > _HIGHEST for rating in ratings) > len(ratings) / 20


def release_file(content: Content, *, beside_look_alike: bool = False) -> Recognised | None:
    """Recognises a file of a release by its lines; None for any other file.

    Args:
        content: the file.
        beside_look_alike: whether the source holds ratings that are `is_look_alike`; any file is then allowed.

    Raises:
        SourceError: the file has the name of a release's file, but none of its lines match.
    """
    if is_look_alike(content):
        return Recognised(content.name, "dat", "ratings")
    shares = {key: _matching_share(shape.pattern, content) for key, shape in _SHAPES.items()}
    base = PurePosixPath(content.name).name
    named = next((key for key, shape in _SHAPES.items() if shape.name == base), None)
    if named and not shares[named] and beside_look_alike:
        return None
    if named and not shares[named]:
        shown = repr(content.lines[0][:80]) if content.lines else content.kind
        raise SourceError(
            f"{content.name}, line 1: found {shown}, expected lines such as {_SHAPES[named].example!r}; "
            "rename the file if it is not MovieLens's."
        )
    # A share below 100 % is enough, so that single bad rows do not hide the format.
    shaped = named or next((key for key, share in shares.items() if share >= _MOST), None)
    return Recognised(content.name, *shaped) if shaped else None


def read_release(
    source: Source, found: Sequence[Recognised], rules: Rules, *, is_look_alike: bool = False
) -> SourceTables:
    """The tables of a release. Ratings without any other file of the release are read alone, without titles.

    Args:
        source: the source.
        found: the recognised files in it.
        rules: format options of the source.
        is_look_alike: whether the files are only written like a release.

    Raises:
        SourceError: a required file is missing, or the source holds two releases.
    """
    ratings = _chosen(source, [file for file in found if file.role == "ratings"])
    beside = [file for file in found if file.folder == ratings.folder and file.family == ratings.family]
    roles = _ROLES[ratings.family]
    by_role = {role: [file for file in beside if file.role == role] for role in roles}
    files = {role: _chosen(source, same).name for role, same in by_role.items() if same}
    missing = [_SHAPES[ratings.family, role].name for role in _NEEDED[ratings.family] if role not in files]
    if is_look_alike or len(files) == 1:
        return _alone(source, ratings.family, files, rules, is_look_alike=is_look_alike)
    if missing:
        raise SourceError(
            f"{source.path}: {ratings.name} is there, {' and '.join(missing)} not; "
            "a MovieLens release is read whole, from its zip or its folder."
        )
    return (_ml_100k if ratings.family == "100k" else _ml_dat)(source, files, rules)


def _alone(source: Source, family: str, files: Mapping[str, str], rules: Rules, *, is_look_alike: bool) -> SourceTables:
    """Ratings without the other files of a release, or with titles in files that are written alike."""
    separator = "\t" if family == "100k" else "::"
    scale = rules.scale or (None if is_look_alike else (0.5, 5.0) if family == "dat" else (1.0, 5.0))
    has_items = is_look_alike and "items" in files
    return SourceTables(
        # Ratings alone do not tell 1M from 10M.
        format="ml-100k" if family == "100k" else "dat",
        files=[files["ratings"], *([files["items"]] if has_items else [])],
        declared_scale=scale,
        judged_ratings=lambda: _ratings(source, files["ratings"], separator, scale, rules),
        judged_users=lambda: None,
        judged_items=lambda: _items_dat(source, files["items"]) if has_items else None,
    )


def _ml_100k(source: Source, files: Mapping[str, str], rules: Rules) -> SourceTables:
    scale = rules.scale or (1.0, 5.0)
    return SourceTables(
        format="ml-100k",
        files=[*files.values()],
        declared_scale=scale,
        judged_ratings=lambda: _ratings(source, files["ratings"], "\t", scale, rules),
        judged_users=lambda: _users_100k(source, files["users"]),
        judged_items=lambda: _items_100k(source, files["items"], files["genres"]),
    )


def _ml_dat(source: Source, files: Mapping[str, str], rules: Rules) -> SourceTables:
    # Only the users file distinguishes 1M from 10M: the formats are equal, and both can start with whole stars.
    has_users = "users" in files
    scale = rules.scale or (1.0 if has_users else 0.5, 5.0)
    return SourceTables(
        format="ml-1m" if has_users else "ml-10m",
        files=[*files.values()],
        declared_scale=scale,
        judged_ratings=lambda: _ratings(source, files["ratings"], "::", scale, rules),
        judged_users=lambda: _users_1m(source, files["users"]) if has_users else None,
        judged_items=lambda: _items_dat(source, files["items"]),
    )


def _ratings(
    source: Source, name: str, separator: str, scale: tuple[float, float] | None, rules: Rules
) -> pl.LazyFrame:
    rows = scan_fields(utf8_or_latin1_text(source, name), separator, _RATING_FIELDS)
    return judge_ratings(rows, name, scale=scale, times=SECONDS, now=rules.now, not_rated=rules.not_rated)


def _users_100k(source: Source, name: str) -> pl.LazyFrame:
    fields = ("user_id", "age", "gender", "occupation", "zip_code")
    rows = scan_fields(utf8_or_latin1_text(source, name), "|", fields)
    return judge_users(rows, name, numbers=["age"], texts=["gender", "occupation", "zip_code"])


def _users_1m(source: Source, name: str) -> pl.LazyFrame:
    fields = ("user_id", "gender", "age", "occupation", "zip_code")
    names = {str(code): occupation for code, occupation in enumerate(OCCUPATIONS_1M)}
    rows = scan_fields(utf8_or_latin1_text(source, name), "::", fields)
    named = rows.with_columns(pl.col("occupation").replace(names))
    return judge_users(named, name, numbers=["age"], texts=["gender", "occupation", "zip_code"])


def _items_100k(source: Source, name: str, genres_name: str) -> pl.LazyFrame:
    genres = _genres_100k(source, genres_name)
    # The flag "unknown" is no genre: it marks items without known genres.
    flagged = [pl.when(pl.col(genre) == "1").then(pl.lit(genre)) for genre in genres if genre != "unknown"]
    rows = scan_fields(utf8_or_latin1_text(source, name), "|", (*_ITEM_FIELDS, *genres))
    return judge_items(rows.with_columns(pl.concat_list(flagged).list.drop_nulls().alias("genres")), name)


def _genres_100k(source: Source, name: str) -> list[str]:
    """Genres in the order of their flags."""
    listed = scan_fields(utf8_or_latin1_text(source, name), "|", ("genre", "number"))
    numbered = listed.select("genre", pl.col("number").cast(pl.Int64, strict=False)).collect().sort("number")
    genres = numbered["genre"].to_list()
    fields = [*_ITEM_FIELDS, *genres]
    if numbered["number"].to_list() != list(range(len(genres))) or len({*fields}) < len(fields) or len(genres) < 2:
        raise SourceError(f"{name}: expected one genre per line, numbered from 0, each once; get the release again.")
    return genres


def _items_dat(source: Source, name: str) -> pl.LazyFrame:
    rows = scan_fields(utf8_or_latin1_text(source, name), "::", ("item_id", "title", "genres"))
    return judge_items(rows, name)


def _matching_share(pattern: re.Pattern[str], content: Content) -> float:
    matching = sum(pattern.match(line) is not None for line in content.lines)
    return matching / len(content.lines) if content.kind == DELIMITED else 0.0


def _chosen(source: Source, same: Sequence[Recognised]) -> Recognised:
    """The file of a role; 100K also holds its ratings split into training and test sets, which are ignored."""
    original = [file for file in same if file.is_original_name]
    candidates = original or same
    if len(candidates) > 1:
        names = ", ".join(file.name for file in candidates[:5])
        raise SourceError(f"{source.path}: several files of {same[0].role} ({names}); add them one by one.")
    return candidates[0]
