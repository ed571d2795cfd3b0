"""Rollouts on disk, and what is read beside them."""
