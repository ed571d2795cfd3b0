"""Traces: rollouts on disk, and related inputs."""
