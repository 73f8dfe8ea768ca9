"""The options of the commands: type, range and meaning of each, and the check against them."""
