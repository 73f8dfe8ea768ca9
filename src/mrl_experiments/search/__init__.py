"""What is nearest: neighbours, staged searches, class means, and which rows are searched."""
