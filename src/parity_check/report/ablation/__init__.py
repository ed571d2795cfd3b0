"""The report of an ablation: its model, and one renderer a format."""
