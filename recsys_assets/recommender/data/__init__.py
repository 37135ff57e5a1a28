"""Declared tables, frames on both engines, id map, splits and preferences: the lowest package of `recommender`."""
