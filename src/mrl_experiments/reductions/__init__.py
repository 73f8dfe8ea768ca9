"""Linear maps of a trained representation after which its prefixes are the reduced ones."""
