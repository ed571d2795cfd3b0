"""Everything that talks to an inference engine, each in an interpreter of its own."""
