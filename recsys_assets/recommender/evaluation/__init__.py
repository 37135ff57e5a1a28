"""Scores with bounds and intervals: each protocol is one function that gives table `evaluation_scores`.

A protocol takes predictions by model name, so a model not known beforehand needs no change here. How models
are fitted and how test rows are cut belongs to the other stages.
"""

from recsys_assets.recommender.evaluation.latest_rating import latest_rating_scores
from recsys_assets.recommender.evaluation.time_cut import time_cut_scores
from recsys_assets.recommender.evaluation.top_n import top_n_scores

__all__ = ["latest_rating_scores", "time_cut_scores", "top_n_scores"]
