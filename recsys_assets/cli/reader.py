"""Assets of a home read with Polars, for the commands that look at results. Needs neither Dagster nor a JVM."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import polars as pl

from recsys_assets.cli.terminal import CommandError, nearest, titled
from recsys_assets.home import Home
from recsys_assets.numbering import require_numbering
from recsys_assets.storage import AssetStore, Model, scan

ModelType = TypeVar("ModelType", bound=Model)
_SUGGESTIONS = 5
# Not every catalogue has titles.
MOVIE_NAME = pl.coalesce("title", "movie_id")


@dataclass(frozen=True)
class Reader:
    """The present versions of a home's assets. Every method raises AssetMissingError where there is none."""

    home: Home

    @classmethod
    def of(cls, path: Path | None) -> "Reader":
        """For the home that a command was given."""
        return cls(Home.resolve(path))

    @property
    def store(self) -> AssetStore:
        """The folders of the assets."""
        return AssetStore(self.home.assets)

    def table(self, asset: str, batch: str | None = None) -> pl.LazyFrame:
        """A table asset, or one batch of it.

        Raises:
            IndexMismatchError: its numbers of users or movies are not those of the present tables.
        """
        version = self.store.current(asset.split("/"), batch)
        require_numbering(self.store, version, asset)
        return scan(version).to_native()

    def model(self, asset: str, model_type: type[ModelType]) -> ModelType:
        """A model asset."""
        return model_type.load(self.store.current(asset.split("/")))

    def user(self, user_id: str) -> dict[str, object]:
        """The user's row in `users`.

        Raises:
            CommandError: nobody has that id; the message names the nearest ids.
        """
        users = self.table("users")
        found = users.filter(pl.col("user_id") == user_id).collect()
        if found.is_empty():
            ids = users.select("user_id").collect()["user_id"].to_list()
            raise CommandError(_unknown("user", user_id, nearest(user_id, ids, whole=True)))
        return found.row(0, named=True)

    def movie(self, movie_id: str) -> dict[str, object]:
        """The movie's row in `movies`.

        Raises:
            CommandError: no movie has that id; the message names the nearest ids and titles.
        """
        movies = self.table("movies")
        found = movies.filter(pl.col("movie_id") == movie_id).collect()
        if found.is_empty():
            raise CommandError(_unknown("movie", movie_id, _movies_like(movie_id, movies.collect())))
        return found.row(0, named=True)


def _unknown(kind: str, wanted: str, alike: list[str]) -> str:
    hint = f" Nearest: {', '.join(alike)}." if alike else ""
    way_out = " `recsys-assets movies REGEX` searches the titles." if kind == "movie" else ""
    return f"There is no {kind} with the id {wanted!r}.{hint}{way_out}"


def _movies_like(wanted: str, movies: pl.DataFrame) -> list[str]:
    """Ids with titles: digits are taken for an id, anything else for a title."""
    is_id = wanted.isdigit()
    name = pl.col("movie_id") if is_id else MOVIE_NAME
    alike = nearest(wanted, movies.select(name).to_series().unique().to_list(), whole=is_id)
    found = movies.filter(name.is_in(alike)).sort(name.cast(pl.Enum(alike)))
    return [f"{row['movie_id']} {titled(row)}" for row in found.head(_SUGGESTIONS).iter_rows(named=True)]
