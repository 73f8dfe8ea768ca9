"""Train, evaluate and deploy nested (Matryoshka) representations (Kusupati et al., 2022)."""
