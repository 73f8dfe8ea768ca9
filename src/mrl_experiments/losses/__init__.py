"""Training methods: one file each, a backbone with nested heads and their loss."""
