"""What the segment model says of movies and users: tables `segment_movies`, `user_segments`, `segment_ratings`.

The case study's own sanity checks on them are here as plain numbers; what counts as a failure is said by the checks.
"""

import narwhals as nw
import numpy as np
import polars as pl

from recsys_assets.recommender.data.frames import row_count, to_polars
from recsys_assets.recommender.features.matrices import user_movie_matrix
from recsys_assets.recommender.models.segments.model import SegmentModel

# At this many expected ratings a lift counts half.
_PRIOR_RATINGS = 5.0


def top_movies(
    model: SegmentModel, movies: nw.LazyFrame, train_histories: nw.LazyFrame, *, top: int = 20
) -> pl.DataFrame:
    """The movies of each segment that are first by probability, or first by lift: the table `segment_movies`.

    The lift is P(movie | segment) / P(movie), shrunk towards 1 for movies of few ratings: (E × ratio + 5) / (E + 5),
    where E is the number of ratings that the segment would give the movie if its taste were everybody's.
    docs/decisions/segment-cards.md gives the reasons and the sources.

    Args:
        model: the fitted segments.
        movies: movie, movie_id, title; a movie without a title is named by its id.
        train_histories: movie of each rating that the model was fitted on.
        top: length of both lists; all movies the model knows if those are fewer. Equal values are ordered by the
            movie's index.
    """
    probabilities = model.movie_probabilities[:, model.movies]
    lifts = _lifts(probabilities, model.segment_shares, _ratings_per_movie(train_histories, model))
    ranks, lift_ranks = _ranks(probabilities), _ranks(lifts)
    segment, column = np.nonzero((ranks <= top) | (lift_ranks <= top))
    table = pl.DataFrame(
        {
            "segment": segment.astype(np.int32),
            "rank": ranks[segment, column],
            "movie": model.movies[column],
            "probability": probabilities[segment, column],
            "lift_rank": lift_ranks[segment, column],
            "lift": lifts[segment, column],
        }
    )
    titles = to_polars(movies.select("movie", title=nw.coalesce("title", "movie_id")))
    return (
        table.join(titles, on="movie", how="left")
        .sort("segment", "rank")
        .select("segment", "rank", "movie", "title", "probability", "lift_rank", "lift")
    )


def _ratings_per_movie(train_histories: nw.LazyFrame, model: SegmentModel) -> np.ndarray:
    """Shape (M',): ratings of each movie that the model knows."""
    counts = to_polars(train_histories.group_by("movie").agg(ratings=nw.len()))
    ratings = np.zeros(model.n_movies)
    ratings[counts["movie"].to_numpy()] = counts["ratings"].to_numpy()
    return ratings[model.movies]


def _lifts(probabilities: np.ndarray, shares: np.ndarray, ratings: np.ndarray) -> np.ndarray:
    """As said in `top_movies`, shape (n_segments, M'), from the same, (n_segments,) and (M',)."""
    expected = shares[:, None] * ratings
    ratios = probabilities / (shares @ probabilities)
    return (expected * ratios + _PRIOR_RATINGS) / (expected + _PRIOR_RATINGS)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Places in each row from 1, the highest first, int32; equal values in the order of their columns."""
    order = np.argsort(-values, axis=1, kind="stable")
    ranks = np.empty(values.shape, np.int32)
    np.put_along_axis(ranks, order, np.arange(1, values.shape[1] + 1, dtype=np.int32)[None, :], axis=1)
    return ranks


def assign(model: SegmentModel, train_histories: nw.LazyFrame, test_histories: nw.LazyFrame) -> pl.DataFrame:
    """Each user's affinities and segment, from its history alone: the table `user_segments`.

    Args:
        model: the fitted segments.
        train_histories: user, movie, rating of the users it was fitted on.
        test_histories: the same of the others. Users without a history are in neither.
    """
    parts = {"train": train_histories, "test": test_histories}
    return pl.concat(_assigned(model, ratings, partition) for partition, ratings in parts.items()).sort("user")


def _assigned(model: SegmentModel, ratings: nw.LazyFrame, partition: str) -> pl.DataFrame:
    users, matrix = user_movie_matrix(ratings, n_movies=model.n_movies)
    affinity = model.transform(matrix)
    return pl.DataFrame(
        {
            "user": users,
            "affinity": pl.Series(affinity, dtype=pl.Array(pl.Float32, model.n_segments)).arr.to_list(),
            "segment": affinity.argmax(axis=1).astype(np.int32),
            "partition": pl.repeat(partition, len(users), eager=True, dtype=pl.String),
        }
    )


def ratings_by_segment(train_histories: nw.LazyFrame, user_segments: nw.LazyFrame) -> nw.LazyFrame:
    """Number and mean of the train users' ratings per (segment, movie): the table `segment_ratings`.

    A pair that nobody rated has no row.
    """
    train_users = user_segments.filter(nw.col("partition") == "train").select("user", "segment")
    return (
        train_histories.select("user", "movie", "rating")
        .join(train_users, on="user")
        .group_by("segment", "movie")
        .agg(count=nw.len(), mean=nw.col("rating").cast(nw.Float64()).mean())
        .with_columns(nw.col("count").cast(nw.Int32()))
    )


def affinities(user_segments: nw.LazyFrame, *, n_users: int, n_segments: int) -> np.ndarray:
    """The affinities as a matrix, shape (n_users, n_segments), float32; zeros for users without a history."""
    assigned = to_polars(user_segments, "user", "affinity")
    matrix = np.zeros((n_users, n_segments), np.float32)
    matrix[assigned["user"].to_numpy()] = assigned["affinity"].list.to_array(n_segments).to_numpy()
    return matrix


def memberships(user_segments: nw.LazyFrame, *, n_users: int, n_segments: int) -> np.ndarray:
    """The same with 1 for the segment of highest affinity and 0 for the others."""
    assigned = to_polars(user_segments, "user", "segment")
    matrix = np.zeros((n_users, n_segments), np.float32)
    matrix[assigned["user"].to_numpy(), assigned["segment"].to_numpy()] = 1
    return matrix


def largest_affinity_error(user_segments: nw.LazyFrame) -> float:
    """The largest distance of a user's summed affinities from one; 0 without users."""
    affinity = to_polars(user_segments, "affinity")["affinity"]
    # The sum in float64 keeps float32's rounding of hundreds of segments out of the result.
    sums = affinity.cast(pl.List(pl.Float64)).list.sum().to_numpy()
    return float(np.abs(sums - 1).max(initial=0.0))


def counted_ratings(segment_ratings: nw.LazyFrame, train_histories: nw.LazyFrame) -> tuple[int, int]:
    """The sum of the counts over (segment, movie), and the number of train ratings it has to equal."""
    counted = to_polars(segment_ratings.select(n=nw.col("count").cast(nw.Int64()).sum()))["n"][0]
    return int(counted or 0), row_count(train_histories)


def empty_cells(segment_ratings: nw.LazyFrame, *, n_segments: int, n_movies: int) -> int:
    """How many of the n_segments × n_movies pairs nobody of the segment has rated."""
    return n_segments * n_movies - row_count(segment_ratings)
