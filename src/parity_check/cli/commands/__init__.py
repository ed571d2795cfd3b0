"""The commands, a module each: their options, and one call."""
