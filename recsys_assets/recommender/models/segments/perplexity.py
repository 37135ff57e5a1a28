"""Held-out perplexity: how well segments predict which items users rate, a criterion for the number of segments."""

import narwhals as nw
import numpy as np

from recsys_assets.recommender.data.frames import pseudo_random
from recsys_assets.recommender.features.matrices import user_item_matrix
from recsys_assets.recommender.models.segments.model import SegmentModel
from recsys_assets.recommender.ranking.rankings import blocks, rows_of


def held_out_perplexity(model: SegmentModel, histories: nw.LazyFrame, *, seed: int = 0) -> float:
    """Compute the perplexity of half of each user's items given the other half (Wallach et al. 2009).

    This is document completion. The perplexity is the number of equally likely items among which the model is as
    unsure; lower is better. Every item counts once, whatever its rating. Items that the model does not know are left
    out.

    Args:
        model: fitted on other users.
        histories: user, item, rating; of users outside the training rows.
        seed: seed of the halves.

    Raises:
        ValueError: no user has a known item in the second half.
    """
    half = pseudo_random(seed, ["user", "item"]) % 2
    users, known = user_item_matrix(histories.filter(half == 0), n_items=model.n_items)
    asked, hidden = user_item_matrix(histories.filter(half == 1), n_items=model.n_items)
    affinities = model.transform(rows_of(asked, users, known))
    probabilities, is_known = model.item_probabilities, model.item_known
    total, count = 0.0, 0
    for block in blocks(len(asked), model.n_items):
        cells = hidden[block].tocoo()
        wanted = is_known[cells.col]
        row, item = cells.row[wanted], cells.col[wanted]
        likely = np.einsum("ij,ji->i", affinities[block][row].astype(np.float64), probabilities[:, item])
        total, count = total + float(np.log(likely).sum()), count + len(item)
    if not count:
        raise ValueError("no user has items to be held out, so there is no perplexity")
    return float(np.exp(-total / count))
