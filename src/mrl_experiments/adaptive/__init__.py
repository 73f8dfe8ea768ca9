"""Deploying less of a nested representation: classification and retrieval that adapt their dim."""
