"""Chinese characters drawn with the system's fonts: many classes in seconds, and their English meanings."""
