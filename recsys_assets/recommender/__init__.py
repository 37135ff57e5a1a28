"""The science and the data formats. Nothing here imports Dagster, knows a storage or keeps global state.

scikit-learn is imported inside the functions that use it: to load a served model, and so to look at recommendations,
imports these modules, and scikit-learn alone would take most of the time.
"""
