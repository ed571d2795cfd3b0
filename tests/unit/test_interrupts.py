"""Signals are noted wherever they strike, and raised where a program asks."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

WAITING = """
import time
from parity_check import interrupts
interrupts.listen()
print("listening", flush=True)
"""
IN_A_CALLBACK = """
import weakref
class Thing: pass
def busy(_):
    for _ in range(2000): pass
try:
    while True:  # nearly all of the time is spent where an exception is swallowed
        thing = Thing()
        reference = weakref.ref(thing, busy)
        del thing
        interrupts.check()
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
DEAF = "while True: time.sleep(0.01)\n"


def start(program: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING + program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "listening\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_inside_a_weakref_callback_is_not_lost(number: signal.Signals) -> None:
    process = start(IN_A_CALLBACK)
    time.sleep(0.05)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=20)
    assert (process.returncode, stdout, stderr) == (0, "interrupted\n", "")


def test_a_second_signal_leaves_wherever_the_program_is() -> None:
    process = start(DEAF)
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=20)
    assert (process.returncode, stdout, stderr) == (130, "", "")


LATE = """
import atexit
atexit.register(time.sleep, 1.0)
interrupts.leave(0)
"""


def test_a_signal_while_the_interpreter_ends_is_answered() -> None:
    process = start(LATE)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=20)
    assert (process.returncode, stderr) == (130, "interrupted; the command had finished\n")


def test_other_signals_are_not_taken() -> None:
    process = start(DEAF)
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=20)
    assert process.returncode == -signal.SIGUSR1
