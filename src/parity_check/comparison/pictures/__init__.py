"""What the pictures of a report show, computed before anything is drawn."""
