"""What is said of an engine that failed: the root of it, its kind, what to change."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from parity_check.config.engines import Settings
from parity_check.engines import causes
from parity_check.engines.client import WorkerSpec
from parity_check.engines.log import EngineLog
from parity_check.engines.vllm import CAN, HINTS

SPEC = WorkerSpec(
    role="candidate",
    label="vllm 0.18.1",
    can=CAN,
    backend="vllm",
    python=Path(sys.executable),
    environ={},
    engine_args={},
    family=None,
    settings=Settings(),
    platform="cuda",
    hints=HINTS,
)
CORE = "(EngineCore_DP0 pid=123) ERROR 11-26 02:33:21 [core.py:843] "
SECOND_PROCESS = f"""\
INFO 11-26 02:33:20 [parallel_state.py:1] world_size=1
{CORE}EngineCore failed to start.
{CORE}Traceback (most recent call last):
{CORE}  File "/env/vllm/v1/engine/core.py", line 834, in run_engine_core
{CORE}    engine_core = EngineCoreProc(*args, **kwargs)
{CORE}ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`.
(EngineCore_DP0 pid=123) Process EngineCore_DP0:
(EngineCore_DP0 pid=123) Traceback (most recent call last):
(EngineCore_DP0 pid=123)   File "/usr/lib/python3.11/multiprocessing/process.py", line 314, in run
(EngineCore_DP0 pid=123) ValueError: No available memory for the cache blocks. Try increasing …
Traceback (most recent call last):
  File "/worker/vllm_engine.py", line 100, in failures_named
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {{}}
"""
WRAPPED = "RuntimeError: Engine core initialization failed. See root cause above."
CHAIN = """\
Traceback (most recent call last):
  File "a.py", line 1, in <module>
    int("x")
ValueError: invalid literal
\x1b[36m
During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "a.py", line 3, in <module>
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB
"""


def log(tmp_path: Path, text: str, before: str = "") -> EngineLog:
    path = tmp_path / "candidate.log"
    path.write_text(before)
    started, file = EngineLog.begin(path)
    with file:
        file.write(text.encode())
    return started


@pytest.mark.parametrize(
    ("text", "first"),
    [
        (SECOND_PROCESS, "ValueError: No available memory for the cache blocks. Try increasing"),
        (CHAIN, "ValueError: invalid literal"),
        ("Traceback (most recent call last):\n  File x\nKeyError\n", "KeyError"),
        ("Traceback (most recent call last):\n  File x\nfailures.WorkerFailure: no\n", None),
        ("all is well\n", None),
        ("Traceback (most recent call last):\n  File x\n", None),
        ("", None),
    ],
)
def test_the_first_error(tmp_path: Path, text: str, first: str | None) -> None:
    found = log(tmp_path, text).first_error()
    assert found == first if first is None else (found or "").startswith(first)


def test_what_an_earlier_start_left_is_not_searched(tmp_path: Path) -> None:
    assert log(tmp_path, "all is well\n", before=CHAIN).first_error() is None
    assert log(tmp_path, "all is well\n", before=CHAIN).tail() == ("all is well",)


def test_a_log_that_is_gone(tmp_path: Path) -> None:
    gone = log(tmp_path, CHAIN)
    gone.path.unlink()
    assert (gone.first_error(), gone.tail(), gone.size()) == (None, (), 0)


def test_the_second_process_is_quoted_not_the_first(tmp_path: Path) -> None:
    found = causes.explain("load_failed", WRAPPED, log(tmp_path, SECOND_PROCESS))
    assert found.message.startswith("ValueError: No available memory for the cache blocks")
    assert found.kind == "out_of_memory"
    assert "VLLM_CPU_KVCACHE_SPACE in [candidate.env]" in (SPEC.hint(found.kind) or "")
    assert found.details == ()


@pytest.mark.parametrize(
    ("message", "kind", "hint"),
    [
        ("RuntimeError: Device string must not be empty", "no_device", "vllm-cpu=="),
        ("RuntimeError: Failed to infer device type", "no_device", "[candidate.env]"),
        ("RuntimeError: No CUDA GPUs are available", "no_device", "CUDA_VISIBLE_DEVICES"),
        ("OutOfMemoryError: CUDA out of memory.", "out_of_memory", "[candidate.engine_args]"),
        ("ModuleNotFoundError: No module named 'ray'", "missing_package", "[candidate]"),
        ("EOFError: marshal data too short", "damaged", str(Path(sys.executable).parent.parent)),
        ("OSError: libx.so: file too short", "damaged", "run again"),
        ("ValueError: something else", "load_failed", None),
    ],
)
def test_signs(tmp_path: Path, message: str, kind: str, hint: str | None) -> None:
    found = causes.explain("load_failed", message, log(tmp_path, ""))
    assert (found.kind, found.message) == (kind, message)
    advice = SPEC.hint(found.kind)
    assert advice is None if hint is None else hint in (advice or "")


def test_an_unnamed_failure_shows_what_stands_behind_it(tmp_path: Path) -> None:
    text = log(tmp_path, CHAIN)
    found = causes.explain("internal", "RuntimeError: it went wrong", text)
    assert found.details == ("the first error in its log: ValueError: invalid literal",)
    named = causes.explain("bad_engine_args", "ValueError: unknown dtype", text)
    assert named.details == ()


def test_warnings_that_bear_on_logprobs(tmp_path: Path) -> None:
    text = (
        "WARNING 11-26 10:00:00 [torch_sdpa.py:413] Torch SPDA does not support logits soft cap. "
        "Outputs may be slightly off.\n"
        "WARNING 11-26 10:00:00 [cpu.py:154] Environment variable VLLM_CPU_KVCACHE_SPACE not set\n"
        "(EngineCore pid=12) WARNING 11-26 10:00:01 [torch_sdpa.py:413] Torch SPDA does not "
        "support logits soft cap. Outputs may be slightly off.\n"
        "Unrecognized keys in `rope_parameters` for 'rope_type'='yarn': {'a'}\n"
    )
    assert log(tmp_path, text).warnings() == {
        "soft-cap": "Torch SPDA does not support logits soft cap. Outputs may be slightly off.",
        "rope": "Unrecognized keys in `rope_parameters` for 'rope_type'='yarn': {'a'}",
    }
