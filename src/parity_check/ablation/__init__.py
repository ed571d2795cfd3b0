"""`ablate`: find the setting that causes the drift, by restarting the candidate."""
