"""From paired logprobs to estimates, intervals and verdicts. Pure functions."""
