"""Search: neighbours, staged searches, class means, and queries that are rows of the database."""
