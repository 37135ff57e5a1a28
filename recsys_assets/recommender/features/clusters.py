"""Clusters users by their attributes: scaled features, K-means over a range of K, and the chosen clustering.

Segments, which group users by taste, are in `models/segments`. User attributes are one row per user, so scikit-learn
clusters them on either engine, with the same result.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Literal

import narwhals as nw
import numpy as np
import polars as pl
from pydantic import Field

from recsys_assets.recommender.data.frames import pseudo_random, to_polars
from recsys_assets.recommender.data.sections import Section

if TYPE_CHECKING:
    from sklearn.cluster import KMeans

ZIP_CODE = "zip_code"
# Most one-hot columns per attribute. More would cost time in every model with user attributes, for values that hardly
# any user has.
_MAX_VALUES = 50
# Number of users of MovieLens 1M. "auto" recognises MovieLens 1M by it, and clusters as case study A did.
_CASE_STUDY_USERS = 6_040
# K-means starts of the chosen clustering; the best is kept.
_N_STARTS = 10


class ClusterSettings(Section):
    """K-means clusters of users by attributes."""

    tried: ClassVar = {"k": (2, 5, 10, 20, 40)}

    k: int = Field(5, ge=1, description="Number of clusters; 5 as in case study A.")
    k_max: int = Field(
        30, ge=2, description="The sweep computes SSE for K = 1 to k_max, and the silhouette for K = 2 to k_max - 1."
    )
    silhouette_sample: int = Field(8_000, ge=10, description="Number of users that the silhouette is computed on.")
    n_init: int = Field(3, ge=1, description="K-means starts per K of the sweep.")
    weigh: Literal["auto", "attributes", "columns"] = Field(
        "auto",
        description="'attributes': all attributes weigh alike. 'columns': all one-hot columns weigh alike, as in "
        "case study A, so an attribute with many values hardly counts. 'auto': columns for exactly "
        "MovieLens 1M, else attributes.",
    )
    seed: int = Field(0, ge=0, description="Seed of K-means.")


def user_features(users: nw.LazyFrame, *, log: Callable[[str], None] = lambda _: None) -> pl.DataFrame:
    """Encode user attributes as numbers: the table `user_features`, one row per user.

    A number is scaled to mean 0 and variance 1; a missing one becomes the mean. Every other attribute is one-hot
    encoded; a missing value is all zeros. `zip_code` is encoded by its first digit, the postal region. Attributes with
    a single value are left out, and so are values that only one user has. Of the other values of an attribute, the 50
    most frequent are kept.

    Case study A scaled the whole zip code and the user id as if they were quantities. Distances between them are
    arbitrary and drown the other attributes, so the id is left out here.

    Args:
        users: user, user_id and any attribute columns.
        log: called with one line per attribute that has values left out.

    Examples:
        >>> from recsys_assets.recommender.data.frames import lazy
        >>> users = pl.DataFrame({"user": [0, 1, 2, 3], "user_id": list("abcd"), "gender": ["F", "M", "F", "M"]})
        >>> user_features(lazy(users)).rows()
        [(0, 1.0, 0.0), (1, 0.0, 1.0), (2, 1.0, 0.0), (3, 0.0, 1.0)]
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
    """Return the most frequent values that at least two users share, sorted.

    A value of one user alone, such as a name or an e-mail address, says nothing about other users.
    """
    counted = attribute.drop_nulls().alias("value").value_counts(name="n").filter(pl.col("n") > 1)
    return counted.sort("n", "value", descending=[True, False]).head(_MAX_VALUES)["value"].sort()


def sweep(
    features: nw.LazyFrame,
    *,
    settings: ClusterSettings,
    log: Callable[[str], None] = lambda _: None,
) -> pl.DataFrame:
    """Compute SSE and silhouette of K-means for each K: the table `cluster_sweep`.

    Args:
        features: user and feature columns.
        settings: the values of K; those above the number of distinct feature vectors are skipped. Time and memory of
            the silhouette grow with the square of its sample: 8,000 users take 256 MB.
        log: called with one line per K.
    """
    from sklearn.metrics import pairwise_distances, silhouette_score

    matrix, users = _matrix(features, settings)
    distinct = len(np.unique(matrix, axis=0))
    sample = _sample(users, settings.silhouette_sample, settings.seed)
    # Distances are the costly part of a silhouette, so they are computed once for all K.
    distances = pairwise_distances(matrix[sample].astype(np.float32))
    np.fill_diagonal(distances, 0)
    rows = []
    for k in range(1, min(settings.k_max, distinct) + 1):
        log(f"K-means with {k} clusters")
        fitted = _k_means(matrix, k, settings.n_init, settings.seed)
        labels = fitted.labels_[sample]
        comparable = 1 < len(np.unique(labels)) < len(labels)
        silhouette = float(silhouette_score(distances, labels, metric="precomputed")) if comparable else None
        rows.append({"k": k, "sse": float(fitted.inertia_), "silhouette": silhouette})
    schema = {"k": pl.Int32, "sse": pl.Float64, "silhouette": pl.Float64}
    return pl.DataFrame(rows, schema=schema)


def silhouette_choice(cluster_sweep: pl.DataFrame) -> int | None:
    """Return the K with the highest silhouette; None if no K has one."""
    known = cluster_sweep.drop_nulls("silhouette").sort("silhouette", "k", descending=[True, False])
    return int(known["k"][0]) if len(known) else None


def assign(features: nw.LazyFrame, *, settings: ClusterSettings) -> pl.DataFrame:
    """Assign each user to a K-means cluster: the table `user_clusters`.

    Clusters are numbered by size, the largest first, so that the numbers do not depend on the starts of K-means.
    Without features, one cluster holds all users.

    Args:
        features: user and feature columns.
        settings: number of clusters, weights and seed. With `weigh` set to `attributes`, the features of each attribute
            are divided by their largest standard deviation in any direction, so that all attributes weigh alike
            (multiple factor analysis, Escofier and Pagès 1994).
    """
    matrix, users = _matrix(features, settings)
    distinct = len(np.unique(matrix, axis=0))
    labels = _k_means(matrix, min(settings.k, distinct), _N_STARTS, settings.seed).labels_
    first_seen = np.unique(labels, return_index=True)[1]
    by_size = np.lexsort((first_seen, -np.bincount(labels)))
    number = np.empty(len(by_size), np.int32)
    number[by_size] = np.arange(len(by_size), dtype=np.int32)
    return pl.DataFrame({"user": users, "cluster": number[labels]})


def _matrix(features: nw.LazyFrame, settings: ClusterSettings) -> tuple[np.ndarray, np.ndarray]:
    table = to_polars(features).sort("user")
    # K-means refuses a matrix without columns. One constant column says that all users are alike.
    values = table.drop("user").to_numpy() if table.width > 1 else np.zeros((len(table), 1))
    matrix = np.ascontiguousarray(values, np.float64)
    is_case_study = settings.weigh == "auto" and len(table) == _CASE_STUDY_USERS
    if not (is_case_study or settings.weigh == "columns"):
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
