"""A report of any kind as blocks, and one renderer a format."""
