"""`train`: a short RL run with each engine as the rollout backend, and the curves of each."""
