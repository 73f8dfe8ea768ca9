"""From a profile to finished runs, their tables and figures: the four commands, as often as it takes."""
