"""`weight-sync`: what an in-flight weight update does to the logprobs."""
