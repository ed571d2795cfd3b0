"""Replicas of an engine on a Ray cluster: where they run, and which requests each gets."""
