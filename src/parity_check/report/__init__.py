"""One frozen ParityReport and its renderers."""
