"""Training: the LightningModule, its optimisers, and what surrounds them."""
