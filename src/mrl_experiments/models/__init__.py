"""Backbones: (B, C, H, W) images or (B, T) tokens to (B, D) features."""
