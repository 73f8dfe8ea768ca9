"""From scores and ranked neighbours to numbers, one value a sample."""
