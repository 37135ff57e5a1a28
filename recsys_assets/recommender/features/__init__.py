"""What models learn from beside single ratings: sparse matrices, and users grouped by their attributes."""
