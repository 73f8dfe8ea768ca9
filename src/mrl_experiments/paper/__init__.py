"""The values printed in the paper, as result rows."""
