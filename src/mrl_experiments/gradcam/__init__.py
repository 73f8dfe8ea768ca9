"""Where a CNN looks when it classifies with few and with many dims: Grad-CAM of a run, as a figure."""
