"""Recent popularity: what to show, by how many users liked a movie lately.

The simplest model that knows the time. On a global time split it beats many learnt models, so each stands beside it.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import narwhals as nw
import numpy as np
import polars as pl

from recsys_assets.recommender.data.frames import to_polars
from recsys_assets.recommender.data.index import Index
from recsys_assets.recommender.data.preferences import relevant_from


@dataclass(frozen=True)
class RecentPopularityModel:
    """How much each movie was liked, later ratings counting more.

    Attributes:
        counts: weighted number of ratings that liked the movie, shape (n_movies,), float64.
        index: fingerprint of the dense index it was fitted with.
    """

    counts: np.ndarray
    index: str

    def save(self, folder: Path) -> None:
        """Write counts.parquet and model.json."""
        pl.DataFrame({"count": self.counts}).write_parquet(folder / "counts.parquet")
        (folder / "model.json").write_text(json.dumps({"index": self.index}))

    @classmethod
    def load(cls, folder: Path) -> "RecentPopularityModel":
        """Read what `save` wrote."""
        counts = pl.read_parquet(folder / "counts.parquet")["count"].to_numpy()
        return cls(counts, **json.loads((folder / "model.json").read_text()))


def fit(ratings: nw.LazyFrame, *, index: Index, half_life: float = 0.1) -> RecentPopularityModel:
    """Count the ratings that liked each movie, each half as much for every half-life that it lies back.

    Args:
        ratings: user, movie, rating, timestamp, batch, row.
        index: the dense index the ids come from.
        half_life: share of the ratings, in time, after which one counts half as much.
    """
    timed = ratings.with_row_index("position", order_by=["timestamp", "batch", "row"])
    rows = to_polars(timed, "movie", "rating", "position")
    age = (len(rows) - rows["position"].to_numpy()) / max(len(rows), 1)
    is_liked = rows["rating"].to_numpy() >= relevant_from(ratings)
    counts = np.bincount(
        rows["movie"].to_numpy()[is_liked], weights=0.5 ** (age[is_liked] / half_life), minlength=index.n_movies
    )
    return RecentPopularityModel(counts, index.fingerprint)
