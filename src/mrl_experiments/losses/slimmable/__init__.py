"""Slimmable networks: one network that also runs with a share of its channels."""
