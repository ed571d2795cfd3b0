"""One frozen MatrixReport and its renderers."""
