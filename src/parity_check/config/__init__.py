"""The configuration file, parity.toml."""
