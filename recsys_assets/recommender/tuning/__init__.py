"""Tuning: chooses settings and models on validation splits of the training rows, and keeps the trials."""
