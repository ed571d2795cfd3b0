"""Become a command that ends with its parent: `{python} -I -S launch.py PARENT REPORT_FD COMMAND…`

On Linux the kernel kills this process when the thread that started it is gone, and `exec` keeps it
so: it works on a process that is stopped, or never releases the GIL. The errno of a command that
cannot be executed goes to REPORT_FD.

The standard library alone, in the parent's own interpreter.
"""

import ctypes
import os
import signal
import sys
from contextlib import suppress

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, report, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    os.set_inheritable(report, False)
    with suppress(AttributeError, OSError):  # other systems have no such call
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)  # the parent was gone before the kernel knew
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores, and exec passes on
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        os.write(report, str(error.errno).encode())
        os._exit(1)


if __name__ == "__main__":
    main()
