"""End process groups when the process that started them is gone: `{python} -I -S watchdog.py`

stdin brings a line a change: `+ID` for a group that was started, `-ID` for one that has ended. When
stdin closes, the groups that are left are killed: also what an engine or a compiler has started
itself, which the kernel's signal to the child of a dead parent does not reach.

The standard library alone, in a session of its own.
"""

import os
import signal
import sys
from contextlib import suppress


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups = set()
    for line in sys.stdin:
        change, group = line[0], int(line[1:])
        if change == "+":
            groups.add(group)
        else:
            groups.discard(group)
    for group in groups:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
