"""Held-out perplexity: how well segments predict which movies users rate, a criterion for the number of segments."""

import narwhals as nw
import numpy as np

from recsys_assets.recommender.data.frames import pseudo_random
from recsys_assets.recommender.features.matrices import user_movie_matrix
from recsys_assets.recommender.models.segments.model import SegmentModel
from recsys_assets.recommender.ranking.rankings import blocks, rows_of


def held_out_perplexity(model: SegmentModel, histories: nw.LazyFrame, *, seed: int = 0) -> float:
    """Compute the perplexity of half of each user's movies given the other half (Wallach et al. 2009).

    This is document completion. The perplexity is the number of equally likely movies among which the model is as
    unsure; lower is better. Every movie counts once, whatever its rating. Movies that the model does not know are left
    out.

    Args:
        model: fitted on other users.
        histories: user, movie, rating; of users outside the training rows.
        seed: seed of the halves.

    Raises:
        ValueError: no user has a known movie in the second half.
    """
    half = pseudo_random(seed, ["user", "movie"]) % 2
    users, known = user_movie_matrix(histories.filter(half == 0), n_movies=model.n_movies)
    asked, hidden = user_movie_matrix(histories.filter(half == 1), n_movies=model.n_movies)
    affinities = model.transform(rows_of(asked, users, known))
    probabilities, is_known = model.movie_probabilities, model.movie_known
    total, count = 0.0, 0
    for block in blocks(len(asked), model.n_movies):
        cells = hidden[block].tocoo()
        wanted = is_known[cells.col]
        row, movie = cells.row[wanted], cells.col[wanted]
        likely = np.einsum("ij,ji->i", affinities[block][row].astype(np.float64), probabilities[:, movie])
        total, count = total + float(np.log(likely).sum()), count + len(movie)
    if not count:
        raise ValueError("no user has movies to be held out, so there is no perplexity")
    return float(np.exp(-total / count))
