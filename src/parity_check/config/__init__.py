"""parity.toml."""
