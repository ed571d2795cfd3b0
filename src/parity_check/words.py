"""Counts in words: `1 sample`, `1,152 samples`."""

from __future__ import annotations


def count(number: int, noun: str) -> str:
    """So many of a noun whose plural ends in s."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
