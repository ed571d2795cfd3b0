"""The text that the bundled model is trained on, and its prompts."""
