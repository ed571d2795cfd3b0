"""A training run's scalar logs as curves by step, with limits drawn in and no verdict."""
