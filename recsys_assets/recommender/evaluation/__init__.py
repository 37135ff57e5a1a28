"""Scores with bounds and intervals: each protocol is one function that gives what was measured of each user.

A protocol takes predictions by model name, so a model not known beforehand needs no change here. How models
are fitted and how test rows are cut belongs to the other stages.
"""
