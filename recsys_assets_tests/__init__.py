"""Tests: one file per stage, on small data with a planted structure; what several need is in `conftest`."""
