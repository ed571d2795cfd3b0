"""The program: `parity-check`, or `python -m parity_check`."""

from __future__ import annotations

from typing import NoReturn

from parity_check import interrupts


def main() -> NoReturn:
    """Handle signals first, then import the slow modules."""
    interrupts.listen()
    from parity_check.cli import main as cli

    interrupts.leave(cli.main())


if __name__ == "__main__":
    main()
