"""Ingest: reads MovieLens releases and users' own ratings, and downloads MovieLens from GroupLens."""
