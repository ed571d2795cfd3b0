"""The worker's typed failures."""


class WorkerFailure(Exception):
    """A known failure. `kind` is an error kind of the protocol, `message` is one line."""

    def __init__(self, kind, message):
        super().__init__(message)
        self.kind = kind
        self.message = message
