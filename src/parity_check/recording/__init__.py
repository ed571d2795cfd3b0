"""Run engines: sample and replay rollouts, and write them into a run directory."""
