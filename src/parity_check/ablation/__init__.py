"""`ablate`: which setting makes the drift, found by restarting the candidate with each flipped."""
