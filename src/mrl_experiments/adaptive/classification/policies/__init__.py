"""Policies that choose the thresholds of a cascade, one per file."""
