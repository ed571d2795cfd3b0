"""How to run a report's command again."""

from __future__ import annotations

import tomli_w

from parity_check.report.document import Block, Code, Details, Head


def repeat(head: Head) -> tuple[Block, ...]:
    """The command, and its configuration folded away."""
    configuration = Code(tomli_w.dumps(head.config), "Configuration")
    return (
        Code(head.command, "Command"),
        Details("The configuration", (configuration,)),
    )
