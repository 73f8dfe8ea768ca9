"""Embeddings that other programs made, brought into the form that evaluate.py reads."""
