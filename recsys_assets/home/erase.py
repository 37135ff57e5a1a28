"""Erases the data of forgotten users from a home, and searches the whole home afterwards.

Every step can be repeated, so the next `compact` completes one that was killed or failed. The search at the end looks
at every file, whatever the steps report (`searching`). The command is in `cli/compacting.py`. The run history is erased
by `orchestration.run_history`.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import narwhals as nw
import polars as pl

from recsys_assets.errors import RecsysError
from recsys_assets.home.batches import RAW_TABLES, Batch
from recsys_assets.home.exclusions import last_forgotten, modified
from recsys_assets.home.landing import changing, exchange
from recsys_assets.home.layout import Home, HomeError, is_hidden
from recsys_assets.home.searching import NAMED, ByteSearch, Hit, catalogue_words, files_of, is_distinctive
from recsys_assets.home.unfinished import left_behind, unfinished_of, write_atomically
from recsys_assets.home.versions import TABLE_FILE, AssetDamagedError, AssetStore, scan, written
from recsys_assets.recommender.ingest.errors import SourceError
from recsys_assets.recommender.ingest.leaving_out import WITHHELD, withhold
from recsys_assets.recommender.ingest.settings import DataSettings
from recsys_assets.recommender.ingest.source_tables import SourceTables
from recsys_assets.recommender.ingest.sources import read_source
from recsys_assets.recommender.ingest.user_words import names_one

# Tables with rows of single users that only a study makes again.
_USERS_OF_A_STUDY = ("user_scores", "published_folds")
# Names of unfinished files: of several writers, and of `add` in versions before 0.5.
_UNFINISHED, _UNFINISHED_ADD, _TEMPORARY = re.compile(r"\..+-\d+"), re.compile(r"\.[a-z0-9_]{8}"), 0o700
# Errors that a step may meet in files of other programs. The step records them, and the search at the end checks the
# files.
_TROUBLE = (RecsysError, OSError, ValueError, pl.exceptions.PolarsError)


@dataclass
class Erased:
    """Result of erasing.

    Attributes:
        rewritten: batches whose landed source was replaced.
        emptied: batches without good rows of anybody else and without items; the caller has to remove them.
        bad_rows: number of bad rows in each rewritten or emptied batch. Its new files hold none of them.
        outside: targets of links that lead out of `landing/`. These files do not belong to the home, so they are
            neither read nor erased.
        trouble: failed steps, in words.
        versions: number of deleted old versions.
    """

    rewritten: list[str] = field(default_factory=list)
    emptied: list[str] = field(default_factory=list)
    bad_rows: dict[str, int] = field(default_factory=dict)
    outside: list[Path] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)
    versions: int = 0

    def attempt(self, what: object, step: Callable[..., object], *arguments: object) -> None:
        """Execute one step and record its failure, so that the other steps are executed too."""
        try:
            step(*arguments)
        except _TROUBLE as error:
            self.trouble.append(f"{what}: {error}")


@dataclass(frozen=True)
class Survey:
    """Result of a search of the whole home.

    Attributes:
        found: files that name a forgotten user, or that cannot be searched.
        files: number of searched files.
        common: ids that are too short or are words of the catalogue. They are searched in columns of user ids only.
    """

    found: list[Hit]
    files: int
    common: list[str]


def erase_sources(
    home: Home, forgotten: Collection[str], settings: DataSettings, waiting: Callable[[], None] = lambda: None
) -> Erased:
    """Erase forgotten users from landed files and raw tables, and delete unfinished files of killed commands.

    Args:
        home: the home.
        forgotten: ids of forgotten users.
        settings: how landed files are read.
        waiting: called if another command changes `landing/`.
    """
    done, store = Erased(), AssetStore(home.assets)
    with changing(home, waiting):
        for left in _left_behind(home):
            done.attempt(left, _delete, left)
        for name in home.landed_batches() if forgotten else ():
            if _leads_out(home, name):
                done.outside.append((home.landing / name).resolve())
                continue
            done.attempt(f"Batch {name}", _rewrite_landed, home, name, forgotten, settings, done)
    for asset in RAW_TABLES if forgotten else ():
        for name in store.batches([asset]):
            done.attempt(f"{asset} of batch {name}", _rewrite_stored, store, asset, name, forgotten)
    return done


def erase_traces(home: Home, forgotten: Collection[str], done: Erased) -> None:
    """Delete removed batches and everything except the run history that may quote rows of forgotten users."""
    for folder in (home.removed, home.rejected):
        done.attempt(folder, _delete, folder)
    if not forgotten:
        return
    for log in (home.failures, *_files_below(home.logs)):
        done.attempt(log, _empty, log)
    search = ByteSearch(forgotten, filter(is_distinctive, forgotten))
    _erase_studies(home, search, done)
    for record in sorted(home.promotions.glob("*.json")):
        done.attempt(record, _withhold_in_record, record, search)


def erase_old_versions(home: Home, done: Erased) -> None:
    """Delete all versions of assets that are not present any more."""

    def erase() -> None:
        done.versions = AssetStore(home.assets).keep_only_current()

    done.attempt(home.assets, erase)


def made_before_forgetting(home: Home) -> list[Hit]:
    """Tables with users, models and the report that are older than the last addition to the exclusion list.

    A dense id does not name a user, but a row or a factor with it is still personal data.
    """
    last = last_forgotten(home)
    if last is None:
        return []
    found, store = [], AssetStore(home.assets)
    for folder in store.folders():
        asset = folder.relative_to(store.root).parts[0]
        if asset in RAW_TABLES or not (folder / "current").exists():
            continue
        version = (folder / "current").resolve()
        if written(version) < last and _is_of_users(version):
            found.append(Hit(folder, "was made before the last `forget`; `recsys-assets run` makes it again"))
    if home.report.exists() and modified(home.report) < last:
        found.append(Hit(home.report, "was made before the last `forget`; `recsys-assets run` makes it again"))
    return found


def survey(
    home: Home,
    forgotten: Collection[str],
    settings: DataSettings,
    elsewhere: Iterable[tuple[str, Iterable[object]]] = (),
) -> Survey:
    """Search the whole home except the exclusion list.

    Args:
        home: the home.
        forgotten: ids of forgotten users.
        settings: how landed files are read.
        elsewhere: places outside of the home's files, each with the values that it holds.
    """
    try:
        other_words = catalogue_words(_catalogue(home))
    except _TROUBLE:
        # The table is damaged. The search below reports it.
        other_words = set()
    common = [each for each in sorted(forgotten) if not is_distinctive(each) or each in other_words]
    search = ByteSearch(forgotten, set(forgotten) - set(common))
    # A hidden or unfinished file in landing/ is no batch, so its columns of users are not known.
    beside_batches = ByteSearch(forgotten, forgotten)
    found, files = made_before_forgetting(home), 0
    for path in files_of(home):
        files += 1
        which = beside_batches if _is_beside_batches(home, path) else search
        if what := which.file(path, named=path.relative_to(home.path) if path.is_relative_to(home.path) else path):
            found.append(Hit(path, what))
    for name in home.landed_batches():
        found += _landed_names(home, name, forgotten, settings)
    found += [Hit(Path(place), NAMED) for place, values in elsewhere if search.values(values)]
    return Survey(sorted(set(found), key=lambda each: each.path), files, common)


def is_known_user(home: Home, user_id: str) -> bool:
    """Whether any ingested batch names the user."""
    store = AssetStore(home.assets)
    tables = [
        scan(store.current([asset], name)) for asset in ("raw_users", "raw_ratings") for name in store.batches([asset])
    ]
    return any(len(frame.filter(nw.col("user_id").cast(nw.String()) == user_id).head(1).collect()) for frame in tables)


def _left_behind(home: Home) -> Iterator[Path]:
    """Unfinished files of killed commands.

    The caller holds the locks of home and landing, so no command uses them. Of commands without a lock, the PID counts.
    """
    yield from home.scratch.iterdir()
    yield from [each for each in home.landing.iterdir() if _UNFINISHED_ADD.fullmatch(each.name) and _is_our_own(each)]
    for path in (home.forgotten, home.format_file, home.kind, home.tuned_file):
        yield from unfinished_of(path)
    for path in (home.blocked, home.settings_file, home.served_at, home.identity_file, home.instance_file):
        yield from left_behind(unfinished_of(path))
    for folder in (home.promotions, home.study, home.report.parent):
        yield from [each for each in folder.rglob("*") if _UNFINISHED.fullmatch(each.name)]


def _is_our_own(path: Path) -> bool:
    """Whether this package made a hidden folder: only the owner can read its temporary folders."""
    return not path.is_dir() or path.stat().st_mode & 0o777 == _TEMPORARY


def _rewrite_landed(home: Home, name: str, forgotten: Collection[str], settings: DataSettings, done: Erased) -> None:
    """Replace a landed source that names a forgotten user by Parquet files of its good rows without these users.

    Raises:
        SourceError: it has too many bad rows, or the files would be read otherwise; it stays as it is.
    """
    with tempfile.TemporaryDirectory(dir=home.scratch) as scratch:
        try:
            batch = Batch.open(home, name, settings, Path(scratch))
            if not _names(batch.tables, forgotten):
                return
            bad, rows = _bad_rows(batch.tables)
            left = _left(batch.tables, forgotten)
        except SourceError:
            # The source cannot be read as ratings. The search at the end looks for ids in its bytes.
            return
        if bad > settings.max_rejected_share * rows:
            # In such rows nobody can tell whom they name, and a changed setting may read all of them.
            raise SourceError(
                f"it names a forgotten user, and stays as it is: {bad:,} of its {rows:,} rows are bad, and would be "
                f"lost. Fix them, or raise max_rejected_share under [data] in {home.settings_file} to give them up, or "
                "remove the batch. Then repeat `compact`."
            )
        if bad:
            done.bad_rows[name] = bad
        if not left:
            done.emptied.append(name)
            return

        def write(folder: Path) -> None:
            folder.mkdir()
            for table, rows in left.items():
                rows.write_parquet(folder / f"{table}.parquet")
            if "ratings" in left:
                again = read_source(folder, scratch=Path(scratch) / "again", **settings.reading)
                _check_same(batch.tables, again, left, forgotten)

        exchange(home, name, write)
        done.rewritten.append(name)
        if "users" in left and "ratings" not in left:
            done.trouble.append(
                f"Batch {name}: only users{' and items' if 'items' in left else ''} are left in {home.landing / name}, "
                "which cannot be read without ratings. Move the files to a batch with ratings, or remove the batch."
            )


def _left(tables: SourceTables, forgotten: Collection[str]) -> dict[str, pl.DataFrame]:
    """The good rows without forgotten users, by table; tables without rows are left out."""
    frames = {
        "ratings": _of_others(tables.sent, forgotten),
        "users": _of_others(tables.users, forgotten),
        "items": tables.items,
    }
    left = {name: rows.collect(engine="streaming") for name, rows in frames.items()}
    return {name: rows for name, rows in left.items() if not rows.is_empty()}


def _bad_rows(tables: SourceTables) -> tuple[int, int]:
    """Number of bad rows, and of all rows."""
    parts = [tables.rejected, tables.ratings, tables.users, tables.items]
    counts = [*(part.select(pl.len()) for part in parts), tables.not_rated]
    bad, *good = (int(count.item()) for count in pl.collect_all(counts, engine="streaming"))
    return bad, bad + sum(good)


def _of_others(rows: pl.LazyFrame, forgotten: Collection[str]) -> pl.LazyFrame:
    return rows.filter(~pl.col("user_id").cast(pl.String).is_in(sorted(forgotten)))


def _check_same(
    before: SourceTables, again: SourceTables, left: Mapping[str, pl.DataFrame], forgotten: Collection[str]
) -> None:
    """Check that what was written is read as before, but for the forgotten users.

    Raises:
        SourceError: it is not, so that the landed source must stay.
    """
    parts = [(tables.kind, _content(_of_others(tables.ratings, forgotten))) for tables in (before, again)]
    counts = {name: getattr(again, name).select(pl.len()).collect().item() for name in left}
    if parts[0] != parts[1] or counts != {name: rows.height for name, rows in left.items()}:
        raise SourceError(
            "without the forgotten users it would be read otherwise than before, with the present settings under "
            "[data]. It stays as it is: take the users out of it by hand, or remove the batch."
        )


def _content(ratings: pl.LazyFrame) -> tuple[object, ...]:
    """Number and hash of ratings."""
    values = pl.struct(pl.col("user_id", "item_id").cast(pl.String), "rating", "timestamp")
    return ratings.select(pl.len(), values.hash().sum().alias("hash")).collect(engine="streaming").row(0)


def _rewrite_stored(store: AssetStore, asset: str, name: str, forgotten: Collection[str]) -> None:
    """Erase forgotten users from a raw table, even if its landed source is gone."""
    rows: pl.LazyFrame = scan(store.current([asset], name)).to_native()
    kept = _without(rows, forgotten)
    if kept is None:
        return
    version = store.new_version([asset], name, "compact")
    kept.sink_parquet(version / TABLE_FILE)
    store.switch(version)


def _names(tables: SourceTables, forgotten: Collection[str]) -> bool:
    """Whether any file of a source names a forgotten user: in a column of user ids, or in the text of a bad row.

    Without known columns, every id is looked for as a word.
    """
    unread = list(tables.unread())
    ids = [tables.user_ids, *(each for each in unread if isinstance(each, pl.LazyFrame))]
    is_one = pl.col("user_id").is_in(sorted(forgotten)).any()
    texts = [tables.rejected, *(each for each in unread if isinstance(each, pl.LazyFrame))]
    parts = [
        *(rows.select(is_one.alias("any")) for rows in ids),
        *(rows.select(names_one(pl.col("text"), forgotten).any().alias("any")) for rows in texts),
    ]
    if any(part["any"][0] for part in pl.collect_all(parts, engine="streaming")):
        return True
    search = ByteSearch(forgotten, forgotten)
    # What cannot be searched is not replaced, but named by the search at the end.
    return any(search.file(each, named=Path()) == NAMED for each in unread if isinstance(each, Path))


def _without(rows: pl.LazyFrame, forgotten: Collection[str]) -> pl.LazyFrame | None:
    """The rows without forgotten users; None if no row has to change."""
    names = rows.collect_schema().names()
    if "user_id" in names:
        is_one = pl.col("user_id").cast(pl.String).is_in(sorted(forgotten))
        return rows.filter(~is_one) if rows.select(is_one.any()).collect().item() else None
    if "text" not in names:
        return None
    kept = withhold(rows, forgotten)
    named = pl.col("text").str.len_bytes().sum()
    before, after = (part.collect().item() for part in (rows.select(named), kept.select(named)))
    return kept if before != after else None


def _landed_names(home: Home, name: str, forgotten: Collection[str], settings: DataSettings) -> list[Hit]:
    """Hits in a landed batch: in its tables, or in its bytes if it cannot be read as ratings."""
    landed = home.landing / name
    if _leads_out(home, name):
        return []
    with tempfile.TemporaryDirectory(dir=home.scratch) as scratch:
        try:
            batch = Batch.open(home, name, settings, Path(scratch))
            return [Hit(landed, NAMED)] if _names(batch.tables, forgotten) else []
        except _TROUBLE:
            search = ByteSearch(forgotten, forgotten)
            files = _files_below(landed) if landed.is_dir() else [landed] if landed.exists() else []
            told = [(file, search.file(file, named=Path(file.name))) for file in files]
            return [Hit(file, f"{what}; it cannot be read as ratings: fix or remove it") for file, what in told if what]


def _is_beside_batches(home: Home, path: Path) -> bool:
    landing = next((root for root in (home.landing, home.landing.resolve()) if path.is_relative_to(root)), None)
    return landing is not None and is_hidden(path.relative_to(landing).parts[0])


def _leads_out(home: Home, name: str) -> bool:
    return not (home.landing / name).resolve().is_relative_to(home.landing.resolve())


def _catalogue(home: Home) -> list[pl.LazyFrame]:
    store = AssetStore(home.assets)
    return [scan(store.current([name])).to_native() for name in ("users", "items") if store.has([name])]


def _is_of_users(version: Path) -> bool:
    try:
        is_table = (version / TABLE_FILE).exists()
        return not is_table or bool({"user", "user_id"} & {*scan(version).collect_schema().names()})
    except AssetDamagedError:
        return True


def _erase_studies(home: Home, search: ByteSearch, done: Erased) -> None:
    """Delete a study's scores of single users that are older than the last addition to the exclusion list."""
    store, last = AssetStore(home.assets), last_forgotten(home)
    assert last is not None
    for folder in store.folders():
        asset, current = folder.relative_to(store.root).parts[0], folder / "current"
        if asset in _USERS_OF_A_STUDY and current.exists() and written(current.resolve()) < last:
            done.attempt(folder, _delete, folder)
    for scores in [*home.study.glob("scores/*/*/user_scores.parquet")]:
        if modified(scores) < last:
            # Deletes the link to the scores as well, so that the next study scores this protocol again.
            done.attempt(scores, _delete, scores.parent.parent)
    for trial in [*home.study.rglob("*.json")]:
        if search.file(trial, named=Path(trial.name)):
            done.attempt(trial, _delete, trial)


def _withhold_in_record(record: Path, search: ByteSearch) -> None:
    """Withhold the texts in the record of a promotion that name a forgotten user."""

    def without(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: without(part) for name, part in value.items()}
        if isinstance(value, list):
            return [without(part) for part in value]
        return WITHHELD if isinstance(value, str) and search.names_one(value.encode()) else value

    try:
        content = json.loads(record.read_text(encoding="utf-8"))
    except ValueError as error:
        raise HomeError(
            f"{error}. The record is damaged: put it back from a copy, or move it out of the home. Then the decision "
            "that it recorded counts no more."
        ) from error
    if (kept := without(content)) != content:
        write_atomically(record, json.dumps(kept, indent=1, sort_keys=True).encode())


def _files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _empty(log: Path) -> None:
    """Empty and delete a log. A process that still writes to it continues in the emptied file."""
    if log.exists():
        os.truncate(log, 0)
        log.unlink()


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
