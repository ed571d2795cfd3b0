"""What this process starts ends with it, however it ends; and a command run to its end."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.support import wait_for
from parity_check import interrupts
from parity_check.engines import processes

FAMILY = """
import os, subprocess, sys, time
from pathlib import Path
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
Path({pids!r}).write_text(f"{{os.getpid()}} {{child.pid}}")
{then}
"""
HOLD_THE_GIL = "import ctypes; ctypes.PyDLL(None).sleep(1000)"
SLEEP = "time.sleep(1000)"
PARENT = """
import sys
from parity_check.engines import processes
processes.run([sys.executable, "-c", sys.argv[1]])
"""


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def family(tmp_path: Path, then: str) -> tuple[subprocess.Popen[bytes], list[int]]:
    """A parent that runs a child that has a child: the parent, and the ids of the other two."""
    pids = tmp_path / "pids"
    program = FAMILY.format(pids=str(pids), then=then)
    parent = subprocess.Popen([sys.executable, "-c", PARENT, program])
    wait_for(lambda: pids.exists() and pids.read_text().count(" "), "the grandchild")
    return parent, [int(pid) for pid in pids.read_text().split()]


@pytest.mark.parametrize("then", [SLEEP, HOLD_THE_GIL], ids=["asleep", "holding the GIL"])
@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_nothing_outlives_the_parent(
    tmp_path: Path, then: str, stopped: bool, number: signal.Signals
) -> None:
    parent, children = family(tmp_path, then)
    if stopped:
        os.killpg(children[0], signal.SIGSTOP)
    parent.send_signal(number)
    parent.wait()
    wait_for(lambda: not any(map(alive, children)), "the end of the children")


def test_the_child_dies_even_if_the_watchdog_is_stopped(tmp_path: Path) -> None:
    """The kernel ends it; what it has started itself is what the watchdog is for."""
    parent, [child, grandchild] = family(tmp_path, SLEEP)
    listed = subprocess.check_output(
        ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(parent.pid)], text=True
    )
    [watchdog] = [int(line.split()[0]) for line in listed.splitlines() if "watchdog.py" in line]
    os.kill(watchdog, signal.SIGSTOP)
    parent.kill()
    parent.wait()
    wait_for(lambda: not alive(child), "the end of the child")
    os.kill(watchdog, signal.SIGCONT)
    wait_for(lambda: not alive(grandchild) and not alive(watchdog), "the end of the others")


def test_a_command_is_run_to_its_end() -> None:
    told: list[str] = []
    program = "import sys; print('out'); print('one\\ntwo', file=sys.stderr); sys.exit(3)"
    ended = processes.run([sys.executable, "-c", program], tell=told.append)
    assert ended == processes.Ended(3, "out\n", "one\ntwo\n")
    assert told == ["one\n", "two\n"]


def test_what_a_command_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    """And does not keep its reader waiting, though it holds the pipes."""
    pids = tmp_path / "pids"
    processes.run([sys.executable, "-c", FAMILY.format(pids=str(pids), then="")])
    left = int(pids.read_text().split()[1])
    wait_for(lambda: not alive(left), "the end of what was left")


def test_much_output_on_both_streams() -> None:
    program = "import sys; sys.stderr.write('e' * 10**6); sys.stdout.write('o' * 10**6)"
    ended = processes.run([sys.executable, "-c", program])
    assert (len(ended.stdout), len(ended.stderr)) == (10**6, 10**6)


def test_a_limit(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    with pytest.raises(TimeoutError):
        processes.run(
            [sys.executable, "-c", FAMILY.format(pids=str(pids), then=SLEEP)], limit_s=1.0
        )
    assert not any(alive(int(pid)) for pid in pids.read_text().split())


def test_a_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "came", lambda: True)

    def check() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(interrupts, "check", check)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        processes.run([sys.executable, "-c", "import time; time.sleep(1000)"])
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("content", "errno_name"),
    [(None, "ENOENT"), ("no script", "ENOEXEC"), ("#!/nowhere", "ENOENT")],
)
def test_what_cannot_be_run(tmp_path: Path, content: str | None, errno_name: str) -> None:
    command = tmp_path / "command"
    if content is not None:
        command.write_text(content)
        command.chmod(0o755)
    with pytest.raises(OSError, match=str(command)) as caught:
        processes.run([str(command)])

    assert caught.value.errno == getattr(errno, errno_name)


def test_signals_that_python_ignores_are_not_ignored_in_a_command() -> None:
    ended = processes.run(["grep", "SigIgn", "/proc/self/status"])
    assert int(ended.stdout.split()[1], 16) & (1 << (signal.SIGPIPE - 1)) == 0
