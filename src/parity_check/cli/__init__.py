"""The command line: parse, one call per command, exit codes."""
