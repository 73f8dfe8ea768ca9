"""Adaptive classification and retrieval: each sample or query uses as few nested dims as it needs."""
