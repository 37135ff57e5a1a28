"""Everything that imports Dagster: assets, checks, jobs, sensors, schedules, storage and the execution of runs.

The science is in `recommender`, a catalogue's files are in `home`, the command line is in `cli`.
"""
