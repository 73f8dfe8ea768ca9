"""Images with labels: where they come from, how their files are read, and the LightningDataModule of them."""
