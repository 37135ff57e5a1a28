"""Scores all entries of the registry under the protocols of the pipeline: table `evaluation_scores`.

Other protocols belong in `tuning.study`.
"""

from collections.abc import Mapping, Sequence

import narwhals as nw
import polars as pl

from recsys_assets.recommender.data.tables import TABLES
from recsys_assets.recommender.evaluation import protocols
from recsys_assets.recommender.registry import Entry, Task


def all_scores(
    tables: Mapping[str, nw.LazyFrame],
    predictions: Mapping[Entry, nw.LazyFrame],
    *,
    protocols_of: Sequence[str] = protocols.OF_THE_PIPELINE,
    selected_rating_model: str,
    selected_ranking_model: str,
    selected_response_model: str,
    selected_next_item_model: str,
    n_resamples: int,
    seed: int,
) -> pl.DataFrame:
    """The scores of every entry under its protocol and its paired improvements: the table `evaluation_scores`.

    Args:
        tables: `items` and the tables of all splits, by name.
        predictions: predictions table by entry.
        protocols_of: names of the protocols to score.
        selected_rating_model: the model repeated as `selected` in `time_cut`.
        selected_ranking_model: the model repeated as `selected` in `top_n`.
        selected_response_model: the rating model repeated as `selected` in `latest_rating`.
        selected_next_item_model: the ranking model repeated as `selected` in `latest_rating`.
        n_resamples: number of bootstrap resamples.
        seed: random seed of the bootstrap and of ties.
    """
    selected: dict[Task, str] = {
        "time_cut": selected_rating_model,
        "top_n": selected_ranking_model,
        "latest_rating": selected_response_model,
        "next_item": selected_next_item_model,
    }
    measured = [protocols.measured(name, tables, predictions, selected=selected, seed=seed) for name in protocols_of]
    drawn = {"seed": seed, "n_resamples": n_resamples}
    of_protocols = [pl.concat([each.scores(**drawn), each.improvements(**drawn)]) for each in measured]
    return pl.concat([scores.sort(TABLES["evaluation_scores"].order) for scores in of_protocols])
