"""Grad-CAM figures of a run's CNN at few and at many dims."""
