"""The program: `parity-check`, or `python -m parity_check`."""

from __future__ import annotations

from typing import NoReturn

from parity_check import interrupts


def main() -> NoReturn:
    """Listen for signals before anything else, and load what takes time to load after that."""
    interrupts.listen()
    from parity_check.cli import main as cli

    interrupts.leave(cli.main())


if __name__ == "__main__":
    main()
