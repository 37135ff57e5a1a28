"""Declared tables, frames on both engines, id index, splits and preferences: the lowest package of `recommender`."""
