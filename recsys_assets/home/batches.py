"""Reads a landed batch with the home's settings, and accepts or refuses it as a whole.

Source formats and rules for rows are in `recommender.ingest`. The raw tables are assets of
`orchestration.assets.ingest`.
"""

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from recsys_assets.home.data_kind import check_kind
from recsys_assets.home.exclusions import forgotten_users
from recsys_assets.home.layout import Home
from recsys_assets.home.unfinished import write_atomically
from recsys_assets.home.versions import AssetStore
from recsys_assets.recommender.data.characters import without_formulas
from recsys_assets.recommender.data.kind import DataKind
from recsys_assets.recommender.ingest.errors import SourceError
from recsys_assets.recommender.ingest.leaving_out import withhold
from recsys_assets.recommender.ingest.releases import check_release, release
from recsys_assets.recommender.ingest.settings import DataSettings
from recsys_assets.recommender.ingest.sources import SourceTables, read_source
from recsys_assets.recommender.ingest.validation import check_rejected

RAW_TABLES = ("rejected_rows", "raw_ratings", "raw_users", "raw_items")
_FIRST = 20


@dataclass(frozen=True)
class Accepted:
    """Facts about an accepted batch.

    Attributes:
        fingerprint: content fingerprint of its source.
        format: source format.
        release: MovieLens release; None for other data.
        low, high: the declared rating scale, else the lowest and the highest rating; None without ratings.
        ratings: number of good ratings.
        rejected: number of rejected rows in all files.
        cleaned: number of texts of users and items from which control characters were removed.
        not_rated: number of rows that the settings declare as not rated.
    """

    fingerprint: str
    format: str
    release: str | None
    low: float | None
    high: float | None
    ratings: int
    rejected: int
    cleaned: int
    not_rated: int


@dataclass(frozen=True)
class Batch:
    """A landed batch with a known source format, before it is accepted or refused.

    Attributes:
        home: the home with the landing folder.
        name: name of the batch.
        tables: lazy tables of its source.
        scratch: folder for temporary files of this batch; it must exist until the run ends.
    """

    home: Home
    name: str
    tables: SourceTables
    scratch: Path

    @classmethod
    def open(cls, home: Home, name: str, settings: DataSettings, scratch: Path) -> "Batch":
        """Open a landed batch and find its source format.

        Raises:
            SourceError: the batch is missing or has no known format; the message names the batch.
        """
        own = scratch / name
        try:
            return cls(
                home,
                name,
                read_source(home.batch(name), scratch=own, **settings.reading, settings_file=home.settings_file),
                own,
            )
        except SourceError as error:
            raise refusal(name, error) from error
        except FileNotFoundError as error:
            raise SourceError(str(error)) from error

    def accept(
        self, content: str, others: Iterable[tuple[str, str | None]], max_rejected_share: float, kind: DataKind | None
    ) -> Accepted:
        """Read the whole batch, and accept or refuse it.

        Args:
            content: content fingerprint of its source.
            others: name and MovieLens release of the other batches.
            kind: kind of the home's data; None before the first batch.
            max_rejected_share: largest accepted share of rejected rows. The rejected rows of a refused batch are listed
                in the home's folder `rejected`.

        Raises:
            SourceError: the batch is refused; the message names the batch.
        """
        try:
            check_kind(self.tables.kind, self.home, kind)
            return self._accepted(content, others, max_rejected_share)
        except SourceError as error:
            raise refusal(self.name, error) from error

    def table(self, name: str) -> pl.LazyFrame:
        """One of the `RAW_TABLES`, without the users on the exclusion list."""
        forgotten = forgotten_users(self.home)
        if name == "rejected_rows":
            return withhold(self.tables.rejected, forgotten)
        frame: pl.LazyFrame = getattr(self.tables, name.removeprefix("raw_"))
        is_left_out = pl.col("user_id").cast(pl.String).is_in(sorted(forgotten))
        return frame.filter(~is_left_out) if forgotten and name != "raw_items" else frame

    def _accepted(self, content: str, others: Iterable[tuple[str, str | None]], max_share: float) -> Accepted:
        source = self.home.batch(self.name)
        found = release(source, self.tables.format, self.scratch)
        check_release(found, others)
        rating = pl.col("rating")
        numbers = [
            self.tables.ratings.select(pl.len().alias("n"), rating.min().alias("low"), rating.max().alias("high")),
            *(frame.select(n=pl.len()) for frame in (self.tables.users, self.tables.items, self.tables.rejected)),
            self.tables.cleaned.sum(),
            self.tables.not_rated,
        ]
        ratings, users, items, rejected, cleaned, not_rated = pl.collect_all(numbers, engine="streaming")
        good = sum(part["n"][0] for part in (ratings, users, items)) + not_rated.item()
        self._check_rejected(rejected["n"][0], good, max_share)
        if not (ratings["n"][0] or (self.tables.is_items_alone and items["n"][0])):
            raise SourceError("it holds no good rating.")
        low, high = self.tables.declared_scale or (ratings["low"][0], ratings["high"][0])
        counts = (int(column.item()) for column in (ratings.select("n"), rejected, cleaned, not_rated))
        return Accepted(content, self.tables.format, found, low, high, *counts)

    def _check_rejected(self, bad: int, good: int, max_share: float) -> None:
        listing = self.home.rejected / f"{self.name}.csv"
        if not bad:
            # Looking for them reads the whole source again, unless it is a plain CSV.
            listing.unlink(missing_ok=True)
            return
        rejected = self.table("rejected_rows")
        first = rejected.head(_FIRST).collect(engine="streaming")
        try:
            check_rejected(
                first,
                good + bad,
                count=bad,
                max_share=max_share,
                listed_in=str(listing),
                settings_file=self.home.settings_file,
            )
        except SourceError:
            self.home.rejected.mkdir(exist_ok=True)
            unfinished = listing.with_name(f".{listing.name}")
            # People open this file in a spreadsheet, which would execute a text that looks like a formula.
            rejected.with_columns(without_formulas(pl.col(pl.String))).sink_csv(unfinished)
            unfinished.replace(listing)
            raise
        # The listing belongs to an earlier content of the batch.
        listing.unlink(missing_ok=True)


def read_batches(home: Home) -> set[str]:
    """The batches that have all raw tables in the store."""
    store = AssetStore(home.assets)
    return set.intersection(*(set(store.batches([table])) for table in RAW_TABLES))


def landed_releases(home: Home, data: DataSettings) -> Iterator[tuple[str, str | None]]:
    """Name and MovieLens release of each readable batch in the landing folder."""
    with tempfile.TemporaryDirectory() as scratch:
        for name in home.landed_batches():
            try:
                source = home.batch(name)
                form = read_source(source, scratch=Path(scratch), **data.reading).format
                yield name, release(source, form, Path(scratch))
            except (SourceError, OSError):
                # The run that reads this batch reports the error, such as a missing permission.
                continue


def record_refusal(home: Home, batch: str, reason: str) -> None:
    """Keep the reason why a batch was refused, for `why_refused`."""
    home.rejected.mkdir(exist_ok=True)
    write_atomically(_reason_file(home, batch), reason.encode())


def forget_refusal(home: Home, batch: str) -> None:
    """Delete the reason of an earlier refusal."""
    _reason_file(home, batch).unlink(missing_ok=True)


def why_refused(home: Home, batch: str) -> str:
    """Why a landed batch was refused; empty if it was not, if its source has changed since, or may not be looked at."""
    reason, source = _reason_file(home, batch), home.landing / batch
    try:
        recorded = reason.stat().st_ctime
        # Times of change: a file that is moved in keeps its time of modification. A folder does not change with a file
        # in it.
        changed = max(path.lstat().st_ctime for path in (source, *source.rglob("*")))
        return reason.read_text(encoding="utf-8") if recorded >= changed else ""
    except (OSError, UnicodeDecodeError):
        return ""


def refused_batches(home: Home) -> list[str]:
    """The landed batches that were refused and have not changed since."""
    return [name for name in home.landed_batches() if why_refused(home, name)]


def _reason_file(home: Home, batch: str) -> Path:
    return home.rejected / f"{batch}.txt"


def refusal(batch: str, error: SourceError) -> SourceError:
    """The error with the name of the batch in front."""
    return SourceError(f"Batch {batch}: {error}")
