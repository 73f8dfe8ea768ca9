"""Adaptive retrieval: a shortlist on a short prefix, re-ranked on longer ones."""
