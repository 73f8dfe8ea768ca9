"""What the paper claims, and whether our rows bear it out."""
