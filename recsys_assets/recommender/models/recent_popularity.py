"""Recent popularity: ranks items by how many users liked them, with later ratings weighted higher.

This is the simplest baseline that uses time. On a global time split it beats many learnt models. Plain popularity is in
`registry/top_n`.
"""

from dataclasses import dataclass
from typing import ClassVar

import narwhals as nw
import numpy as np
from pydantic import Field

from recsys_assets.recommender.data.frames import to_polars
from recsys_assets.recommender.data.index import Index
from recsys_assets.recommender.data.preferences import relevant_from
from recsys_assets.recommender.data.sections import Section
from recsys_assets.recommender.data.splitting import has_times
from recsys_assets.recommender.models.stored import StoredModel


class RecentPopularitySettings(Section):
    """Recent popularity: a baseline for lists that counts later ratings more."""

    half_life: float = Field(
        0.1, gt=0, description="Share of the ratings, in time, after which a rating's weight halves."
    )


@dataclass(frozen=True)
class RecentPopularityModel(StoredModel):
    """Time-weighted number of likes of each item.

    Attributes:
        counts: weighted number of ratings that liked the item, shape (n_items,), float64.
        index: fingerprint of the id map that the model was fitted with.
    """

    counts: np.ndarray
    index: str

    arrays: ClassVar = {"counts": {"count": "counts"}}


def fit(ratings: nw.LazyFrame, *, index: Index, settings: RecentPopularitySettings) -> RecentPopularityModel:
    """Count the ratings that liked each item; each weighs half as much for every half-life of its age.

    If all ratings have one time, all weigh the same.

    Args:
        ratings: item, rating, timestamp (a UTC datetime).
        index: id map of users and items.
        settings: the half-life.

    Examples:
        >>> from datetime import UTC, datetime
        >>> import polars as pl
        >>> from recsys_assets.recommender.data.frames import lazy
        >>> days = [datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2)]
        >>> ratings = pl.DataFrame({"user": [0, 1], "item": [0, 1], "rating": [5.0, 5.0], "timestamp": days})
        >>> settings = RecentPopularitySettings(half_life=0.5)
        >>> fit(lazy(ratings), index=Index(2, 2, "test"), settings=settings).counts.tolist()
        [0.25, 0.5]
    """
    rows = to_polars(ratings, "item", "rating", "timestamp")
    earlier = rows["timestamp"].rank("min").to_numpy() - 1
    age = (len(rows) - earlier) / max(len(rows), 1) if has_times(ratings) else np.zeros(len(rows))
    is_liked = rows["rating"].to_numpy() >= relevant_from(ratings)
    counts = np.bincount(
        rows["item"].to_numpy()[is_liked], weights=0.5 ** (age[is_liked] / settings.half_life), minlength=index.n_items
    )
    return RecentPopularityModel(counts, index.fingerprint)
