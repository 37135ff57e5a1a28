"""Features between the tables and the models: scaled user attributes, K-means clusters of users, and CSR matrices."""
