"""Two or more engines compared: the first is the reference."""
