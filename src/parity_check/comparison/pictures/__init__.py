"""The plot data of a report, computed before anything is drawn."""
