"""Training: the LightningModule, its optimizers, and what surrounds them."""
