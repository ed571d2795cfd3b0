"""The interpreter of an engine: an existing one, or one provisioned by uv from a recipe."""
