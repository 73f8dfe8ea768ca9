"""How the thresholds of a cascade are chosen, one policy a file."""
