"""An engine's interpreter: found, or provisioned by uv from a recipe."""
