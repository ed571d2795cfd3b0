"""What scripts/fault_matrix.py injects, and how it is recorded and judged."""
