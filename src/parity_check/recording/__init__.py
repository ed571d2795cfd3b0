"""Engines at work: rollouts sampled, replayed and written into a run's directory."""
