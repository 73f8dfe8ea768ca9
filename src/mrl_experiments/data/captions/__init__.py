"""Images with texts: tables of captions, their tokens, and the LightningDataModule of both."""
