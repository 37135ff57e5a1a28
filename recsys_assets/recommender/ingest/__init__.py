"""Reading what users bring: MovieLens releases and ratings of their own, and getting MovieLens from its publisher."""
