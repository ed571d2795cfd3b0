"""Compare two or more engines. The first is the reference."""
