"""Classification that uses as few dimensions as each sample needs."""
