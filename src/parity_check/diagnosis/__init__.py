"""Infer ranked causes from Δ, the engines' top-k logprobs and their settings. Pure functions."""
