"""Reads stored assets of a home with Polars, for the commands that show results. It needs neither Dagster nor a JVM.

The layout of stored versions is in `home.versions`.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import narwhals as nw
import polars as pl

from recsys_assets.cli.terminal import CommandError, nearest, titled
from recsys_assets.home.data_kind import kept_kind
from recsys_assets.home.exclusions import forgotten_users
from recsys_assets.home.id_map import renumbered
from recsys_assets.home.layout import Home
from recsys_assets.home.settings import Settings
from recsys_assets.home.versions import AssetMissingError, AssetStore, ModelType, load, scan, written
from recsys_assets.recommender.data.characters import searchable
from recsys_assets.recommender.data.index import renumber
from recsys_assets.recommender.data.wording import worded
from recsys_assets.recommender.ingest.leaving_out import withhold, without_users

_SUGGESTIONS = 5
_NOBODY_RATED_TWICE = (
    "There is no {asset}: no user of this home has two ratings. Scores, the report and segments need the ratings "
    "before a user's latest one. Recommendations do not: `recsys-assets recommend USER`."
)
_WAY_OUT = {
    "user": "`recsys-assets recommend --newcomer` shows the list of a new user.",
    "item": "`recsys-assets items REGEX` searches the titles.",
}
# A catalogue without titles shows ids instead.
ITEM_NAME = pl.coalesce("title", "item_id")


@dataclass(frozen=True)
class Reader:
    """The present versions of a home's assets, without the users on the exclusion list.

    Every method that reads an asset raises AssetMissingError if the asset has not been materialized.
    """

    home: Home

    @classmethod
    def of(cls, path: Path | None) -> "Reader":
        """A reader of the home that a command has to work on."""
        return cls(Home.resolve(path))

    @property
    def store(self) -> AssetStore:
        """The asset store of the home."""
        return AssetStore(self.home.assets)

    def words(self, text: str) -> str:
        """A sentence about ratings of items, in the words of this home: about plays of songs, for example."""
        data = Settings.load(self.home).data
        return worded(text, data.feedback_noun(kept_kind(self.home)), items=data.noun(is_movielens=False))

    def table(self, asset: str, batch: str | None = None) -> pl.LazyFrame:
        """A stored table, or one batch of it, with the dense ids of the present `users` and `items`.

        Raises:
            AssetMissingError: the table has not been materialized.
            IndexMismatchError: the version of `users` or `items` that the table was built with was deleted.
            CommandError: the table cannot exist, because no user of this home has two ratings.
        """
        version = self._present(asset, batch)
        rows: pl.LazyFrame = scan(version).to_native()
        for name, made_with in renumbered(self.store, version, asset).items():
            rows = renumber(rows, name.removesuffix("s"), scan(made_with).to_native(), self._stored(name))
        return self._without_forgotten(rows)

    def written(self, asset: str) -> datetime:
        """Time when the write of an asset's present version began."""
        return written(self.store.current(asset.split("/")))

    def _present(self, asset: str, batch: str | None) -> Path:
        try:
            return self.store.current(asset.split("/"), batch)
        except AssetMissingError:
            if asset != "recommendations" and self._nobody_rated_twice():
                raise CommandError(_NOBODY_RATED_TWICE.format(asset=asset)) from None
            raise

    def _nobody_rated_twice(self) -> bool:
        histories = "train_histories"
        return self.store.has([histories]) and self._stored(histories).head(1).collect().is_empty()

    def _stored(self, asset: str) -> pl.LazyFrame:
        return scan(self.store.current([asset])).to_native()

    def _without_forgotten(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        """The rows without users on the exclusion list, which must not be shown even before the next merge."""
        forgotten = forgotten_users(self.home)
        if not forgotten:
            return rows
        columns = rows.collect_schema().names()
        if "user_id" in columns:
            return without_users(nw.from_native(rows), forgotten).to_native()
        if "user" in columns:
            users = self._stored("users").filter(pl.col("user_id").is_in(sorted(forgotten)))
            return rows.join(users.select("user"), on="user", how="anti", maintain_order="left")
        return withhold(rows, forgotten) if "text" in columns else rows

    def model(self, asset: str, model_type: type[ModelType]) -> ModelType:
        """A stored model."""
        return load(model_type, self.store.current(asset.split("/")))

    def user(self, user_id: str) -> dict[str, object]:
        """The row of a user in `users`.

        Raises:
            CommandError: no user has this id; the message names the nearest ids.
        """
        users = self.table("users")
        found = users.filter(pl.col("user_id") == user_id).collect()
        if found.is_empty():
            ids = users.select("user_id").collect()["user_id"].to_list()
            raise CommandError(_unknown("user", user_id, nearest(user_id, ids, whole=True)))
        return found.row(0, named=True)

    def item(self, item_id: str) -> dict[str, object]:
        """The row of an item in `items`.

        Raises:
            CommandError: no item has this id; the message names the nearest ids and titles.
        """
        items = self.table("items")
        found = items.filter(pl.col("item_id") == item_id).collect()
        if found.is_empty():
            raise CommandError(_unknown("item", item_id, _items_like(item_id, items.collect())))
        return found.row(0, named=True)

    def item_named(self, name: str) -> dict[str, object]:
        """The row of an item in `items`, by its id, else by its title; upper and lower case are the same in a title.

        Raises:
            CommandError: no item has this id or title, or several have this title.
        """
        items = self.table("items").collect()
        if items.filter(pl.col("item_id") == name).is_empty():
            same = items.filter(searchable(pl.col("title")).str.to_lowercase() == _searched(name))
            if len(same) == 1:
                return same.row(0, named=True)
            if len(same):
                ids = ", ".join(same["item_id"].head(_SUGGESTIONS))
                raise CommandError(f"{len(same)} items have the title {name!r}. Give one of their ids: {ids}")
        return self.item(name)


def _searched(text: str) -> str:
    """A text as `searchable` makes it, in lower case."""
    return str(pl.select(searchable(pl.lit(text)).str.to_lowercase()).item())


def _unknown(kind: str, wanted: str, alike: list[str]) -> str:
    hint = f" Nearest: {', '.join(alike)}." if alike else ""
    return f"There is no {kind} with the id {wanted!r}.{hint} {_WAY_OUT[kind]}"


def _items_like(wanted: str, items: pl.DataFrame) -> list[str]:
    """The most similar items, as id and title. Digits are compared with ids, any other text with titles."""
    is_id = wanted.isdigit()
    name = pl.col("item_id") if is_id else ITEM_NAME
    alike = nearest(wanted, items.select(name).to_series().unique().to_list(), whole=is_id)
    found = items.filter(name.is_in(alike)).sort(name.cast(pl.Enum(alike)))
    return [f"{row['item_id']} {titled(row)}" for row in found.head(_SUGGESTIONS).iter_rows(named=True)]
