"""Prompts from standard input: kept in a file, so that the run can be repeated and reported."""

from __future__ import annotations

import hashlib
import os
import re
import select
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from parity_check import interrupts
from parity_check.config.flags import STANDARD_INPUT
from parity_check.errors import InputError
from parity_check.files import check_writable, whole
from parity_check.reading import MOST_BYTES
from parity_check.traces.prompts import A_LINE

if TYPE_CHECKING:
    from parity_check.config.models import Config

JSON_LIST = re.compile(rb"\[\s*[{\[\"\]]")
"""The start of one; a text may start with [INST]."""


def kept(config: Config) -> Config:
    """The configuration with prompts `-` replaced by a file of them, named by its content.

    The file is next to the run directories. Raises InputError and OutputError.
    """
    if config.workload.prompts != STANDARD_INPUT:
        return config
    content = _read()
    start = content.lstrip(b"\xef\xbb\xbf \t\r\n")
    if JSON_LIST.match(start):
        raise InputError("prompts -: a JSON list", hint=A_LINE)
    suffix = "jsonl" if start.startswith(b"{") else "txt"
    digest = hashlib.sha256(content).hexdigest()[:12]
    path = Path(config.run.out).absolute() / f"prompts-{digest}.{suffix}"
    check_writable(path)
    with whole(path) as partial:
        partial.write_bytes(content)
    workload = config.workload.model_copy(update={"prompts": str(path)})
    return config.model_copy(update={"workload": workload})


def _read() -> bytes:
    """All of standard input. Raises InputError, and KeyboardInterrupt after a signal."""
    if sys.stdin is None or sys.stdin.isatty():
        raise InputError(
            "prompts -: nothing is piped into standard input",
            hint="cat prompts.jsonl | parity-check … --prompts -",
        )
    content, descriptor = bytearray(), sys.stdin.fileno()
    while True:
        interrupts.check()
        if not select.select([descriptor], [], [], interrupts.POLL_S)[0]:
            continue
        received = os.read(descriptor, 1 << 16)
        content += received
        if len(content) > MOST_BYTES:
            raise InputError(f"prompts -: more than {MOST_BYTES:,} bytes, the limit")
        if not received:
            break
    if not content.strip():
        raise InputError("prompts -: standard input is empty")
    return bytes(content)
