"""A worker whose replies are not of the protocol: an engine failure that says what does not fit."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from parity_check.config.engines import Settings
from parity_check.engines.client import WorkerEngine, WorkerSpec
from parity_check.engines.fake import CAN
from parity_check.errors import EngineError

GOOD: dict[str, Any] = {
    "backend": "odd",
    "version": "1",
    "family": "v1",
    "packages": {},
    "platform": "cpu",
    "device": "none",
    "settings": {
        name: {"in_force": value, "proof": "as asked"}
        for name, value in Settings().model_dump().items()
    },
    "config": {},
    "environment": {},
    "model": {},
}


def engine(directory: Path, *replies: Any) -> WorkerEngine:
    """A worker that answers its commands with these, in order; a dict takes the command's id."""
    script = directory / "python"
    script.write_text(
        f"#!{sys.executable}\n"
        "import json, os, sys\n"
        f"replies = json.loads({json.dumps(replies)!r})\n"
        "out = os.fdopen(int(sys.argv[3]), 'w', buffering=1)\n"
        "for line, reply in zip(sys.stdin, replies):\n"
        "    if isinstance(reply, dict) and 'id' in reply:\n"
        "        reply['id'] = json.loads(line)['id']\n"
        "    out.write(reply if isinstance(reply, str) else json.dumps(reply))\n"
        "    out.write('\\n')\n"
    )
    script.chmod(0o755)
    spec = WorkerSpec(
        role="candidate",
        label="odd engine",
        can=CAN,
        backend="odd",
        python=script,
        environ={},
        engine_args={},
        family=None,
        settings=Settings(),
        platform="cpu",
    )
    return WorkerEngine(spec, directory / "jobs", directory / "log", 30, lambda *_: None)


def without(path: str) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(json.dumps(GOOD))
    *tables, key = path.split(".")
    table = tree
    for name in tables:
        table = table[name]
    del table[key]
    return tree


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        ({"id": 1, "ok": True, "result": without("version")}, "version: field required"),
        (
            {"id": 1, "ok": True, "result": without("settings.lm_head_dtype")},
            "settings.lm_head_dtype: input should be a dictionary",
        ),
        (
            {"id": 1, "ok": True, "result": without("settings.lm_head_dtype.proof")},
            "settings.lm_head_dtype.proof: field required",
        ),
        (
            {"id": 1, "ok": True, "result": {**GOOD, "config": 3}},
            "config: input should be a valid dictionary",
        ),
    ],
)
def test_a_reply_that_does_not_fit(tmp_path: Path, reply: Any, fault: str) -> None:
    with engine(tmp_path, reply) as worker, pytest.raises(EngineError) as caught:
        worker.load()
    assert caught.value.kind == "protocol"
    start = "the candidate engine (odd engine) returned an invalid reply to load: "
    assert caught.value.message.startswith(start)
    assert fault in caught.value.message
    assert "\n" not in caught.value.message


def test_a_description_is_what_the_worker_says_and_what_was_requested(tmp_path: Path) -> None:
    with engine(tmp_path, {"id": 1, "ok": True, "result": GOOD}) as worker:
        found = worker.load()
    assert (found.label, found.backend, found.evaluates_by) == ("odd engine", "odd", "decode")
    assert found.settings["lm_head_dtype"].requested == "float32"
    assert found.settings["lm_head_dtype"].proof == "as asked"
