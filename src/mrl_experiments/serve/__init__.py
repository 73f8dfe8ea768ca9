"""A run behind HTTP: embed, classify and search, also as OpenAI's clients ask."""
