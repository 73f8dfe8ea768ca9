"""Text as tokens: vocabularies, files of text, packed sequences, and their batches."""
