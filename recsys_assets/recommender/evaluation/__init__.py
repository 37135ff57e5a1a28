"""Scores with bounds and confidence intervals: one function per protocol returns the metric parts of each user.

A protocol takes predictions by model name, so a new model needs no change here. Splitting belongs in
`data.splitting`, fitting in `registry.fitting`.
"""
