"""Dumps of training runs, as their frameworks write them, turned into traces. One file a format."""
