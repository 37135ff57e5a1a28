"""Turns the scores of a model into ranks and lists, and names the ratings behind each recommendation."""
