"""The report of `weight-sync`: its frozen value, and one renderer a format."""
