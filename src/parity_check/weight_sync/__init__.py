"""`weight-sync`: check what an in-flight weight update does to the logprobs."""
