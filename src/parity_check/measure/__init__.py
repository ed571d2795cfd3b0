"""From paired logprobs to numbers with intervals and verdicts; pure."""
