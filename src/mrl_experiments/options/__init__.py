"""What a user can type on the command line: each option's type, range and meaning, and the check of them."""
