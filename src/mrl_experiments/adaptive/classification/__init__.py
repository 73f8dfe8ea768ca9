"""Adaptive classification: early exit at the first nested dim that is confident enough."""
