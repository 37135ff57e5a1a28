"""Users clustered by their attributes: scaled features, K-means over a range of K, the chosen clustering.

Attributes of users are small (one row per user), so scikit-learn does it on every engine and gives the same clusters
on each.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import narwhals as nw
import numpy as np
import polars as pl

from recsys_assets.recommender.data.frames import pseudo_random, to_polars

if TYPE_CHECKING:
    from sklearn.cluster import KMeans

ZIP_CODE = "zip_code"
# More columns cost time in every model that knows the users' attributes, and hardly anybody is in them.
_MAX_VALUES = 50
# By this number of users MovieLens 1M is told, where "auto" clusters as case study A did.
_CASE_STUDY_USERS = 6_040
Weigh = Literal["auto", "attributes", "columns"]


def user_features(users: nw.LazyFrame, *, log: Callable[[str], None] = lambda _: None) -> pl.DataFrame:
    """Attributes as numbers: the table `user_features`, one row per user.

    Args:
        users: user, user_id and any attribute columns. Numbers are scaled to mean 0 and variance 1 (a missing one
            becomes the mean), all else is one-hot encoded (a missing value is all zeros), `zip_code` by its first
            digit, the postal region. A column with a single value tells nothing and is left out; so are values that
            only one user has, and of others all but the 50 most frequent of a column.
        log: called with a line per column of which values are left out.

    Case study A scaled the whole zip code and the user id as if they were quantities. Neither is one: distances
    between them are arbitrary and drown the rest, so the id is left out and the zip code is taken as a region.
    """
    table = to_polars(users.drop("user_id")).sort("user")
    attributes = [name for name in table.columns if name != "user"]
    numbers = [name for name in attributes if table[name].dtype.is_numeric() and name != ZIP_CODE]
    categories = [name for name in attributes if name not in numbers]
    scaled = [_scaled(name) for name in numbers if table[name].drop_nulls().n_unique() > 1]
    texts = [
        (pl.col(name).cast(pl.String).str.slice(0, 1) if name == ZIP_CODE else pl.col(name).cast(pl.String))
        for name in categories
    ]
    one_hot = _one_hot(table.select(texts), log) if texts else pl.DataFrame()
    return pl.concat([table.select("user", *scaled), one_hot], how="horizontal")


def _scaled(name: str) -> pl.Expr:
    value = pl.col(name).cast(pl.Float64)
    return ((value - value.mean()) / value.std(ddof=0)).fill_null(0.0)


def _one_hot(texts: pl.DataFrame, log: Callable[[str], None]) -> pl.DataFrame:
    columns = []
    for attribute in texts:
        there = attribute.drop_nulls().n_unique()
        if there < 2:
            continue
        values = _shared(attribute)
        if len(values) < there:
            log(f"{attribute.name}: {len(values)} of {there:,} values are used, the most frequent that users share")
        columns += [
            (attribute == value).fill_null(False).cast(pl.Float64).alias(f"{attribute.name}={value}")
            for value in values
        ]
    return pl.DataFrame(columns)


def _shared(attribute: pl.Series) -> pl.Series:
    """The values that at least two users share, in order; of many the most frequent ones.

    What tells one user from all others, as a name or an e-mail does, says nothing of others.
    """
    counted = attribute.drop_nulls().alias("value").value_counts(name="n").filter(pl.col("n") > 1)
    return counted.sort("n", "value", descending=[True, False]).head(_MAX_VALUES)["value"].sort()


def sweep(
    features: nw.LazyFrame,
    *,
    k_values: Sequence[int],
    silhouette_sample: int = 8_000,
    n_init: int = 3,
    weigh: Weigh = "auto",
    seed: int = 0,
    log: Callable[[str], None] = lambda _: None,
) -> pl.DataFrame:
    """SSE and silhouette of K-means for each K: the table `cluster_sweep`.

    Args:
        features: user and feature columns.
        k_values: numbers of clusters; those above the number of distinct users' features are left out.
        silhouette_sample: users the silhouette is computed on; time and memory grow with their square (8,000: 256 MB).
        n_init: K-means starts per K, the best kept.
        weigh: see `assign`.
    """
    from sklearn.metrics import pairwise_distances, silhouette_score

    matrix, users = _matrix(features, weigh)
    distinct = len(np.unique(matrix, axis=0))
    sample = _sample(users, silhouette_sample, seed)
    # Once for all K: they are the costly part of a silhouette.
    distances = pairwise_distances(matrix[sample].astype(np.float32))
    np.fill_diagonal(distances, 0)
    rows = []
    for k in (k for k in k_values if k <= distinct):
        log(f"K-means with {k} clusters")
        fitted = _k_means(matrix, k, n_init, seed)
        labels = fitted.labels_[sample]
        comparable = 1 < len(np.unique(labels)) < len(labels)
        silhouette = float(silhouette_score(distances, labels, metric="precomputed")) if comparable else None
        rows.append({"k": k, "sse": float(fitted.inertia_), "silhouette": silhouette})
    schema = {"k": pl.Int32, "sse": pl.Float64, "silhouette": pl.Float64}
    return pl.DataFrame(rows, schema=schema)


def silhouette_choice(cluster_sweep: pl.DataFrame) -> int | None:
    """The K of highest silhouette; None where no K has one."""
    known = cluster_sweep.drop_nulls("silhouette").sort("silhouette", "k", descending=[True, False])
    return int(known["k"][0]) if len(known) else None


def assign(
    features: nw.LazyFrame, *, k: int = 5, n_init: int = 10, weigh: Weigh = "auto", seed: int = 0
) -> pl.DataFrame:
    """Each user's K-means cluster: the table `user_clusters`. Without any feature, one cluster holds everybody.

    Clusters are numbered by size, the largest first, so that their numbers do not depend on how K-means started.

    Args:
        features: user and feature columns.
        k: number of clusters.
        n_init: K-means starts, the best kept.
        weigh: `columns`: each feature counts as it is, as in case study A, and an attribute of many values hardly tells
            clusters apart. `attributes`: the features of an attribute are divided by their largest standard deviation
            in any direction, so that each attribute weighs alike (multiple factor analysis, Escofier & Pagès 1994).
            `auto`: columns for exactly as many users as MovieLens 1M has, else attributes.
        seed: of K-means.
    """
    matrix, users = _matrix(features, weigh)
    distinct = len(np.unique(matrix, axis=0))
    labels = _k_means(matrix, min(k, distinct), n_init, seed).labels_
    first_seen = np.unique(labels, return_index=True)[1]
    by_size = np.lexsort((first_seen, -np.bincount(labels)))
    number = np.empty(len(by_size), np.int32)
    number[by_size] = np.arange(len(by_size), dtype=np.int32)
    return pl.DataFrame({"user": users, "cluster": number[labels]})


def _matrix(features: nw.LazyFrame, weigh: Weigh) -> tuple[np.ndarray, np.ndarray]:
    table = to_polars(features).sort("user")
    # Without any feature everybody is alike: one constant column says so to K-means, which refuses none.
    values = table.drop("user").to_numpy() if table.width > 1 else np.zeros((len(table), 1))
    matrix = np.ascontiguousarray(values, np.float64)
    as_in_case_study = len(table) == _CASE_STUDY_USERS if weigh == "auto" else weigh == "columns"
    if not as_in_case_study:
        of_attribute = np.array([name.split("=")[0] for name in table.columns[1:]])
        for attribute in np.unique(of_attribute):
            block = of_attribute == attribute
            spread = np.linalg.norm(np.atleast_2d(np.cov(matrix[:, block].T, ddof=0)), 2)
            if spread > 0:
                matrix[:, block] /= np.sqrt(spread)
    return matrix, table["user"].to_numpy()


def _k_means(matrix: np.ndarray, k: int, n_init: int, seed: int) -> "KMeans":
    from sklearn.cluster import KMeans

    return KMeans(n_clusters=k, n_init=n_init, random_state=seed).fit(matrix)


def _sample(users: np.ndarray, size: int, seed: int) -> np.ndarray:
    if len(users) <= size:
        return np.arange(len(users))
    ids = nw.from_native(pl.DataFrame({"user": users}).lazy())
    drawn = to_polars(ids.select(draw=pseudo_random(seed, ["user"])))["draw"].to_numpy()
    return np.sort(np.argsort(drawn, kind="stable")[:size])
