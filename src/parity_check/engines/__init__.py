"""Inference engines, each in its own interpreter or behind a server."""
