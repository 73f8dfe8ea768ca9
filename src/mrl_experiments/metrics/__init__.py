"""Metrics of logits and ranked neighbours, one value per sample."""
