"""Where two engines part: on outputs that are known, and read back from a report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.canned_probes import INNER, LOCATED, MODULES, ROWS, a_probe, a_report
from parity_check.console import Console
from parity_check.engines.probe import ROWS as ROWS_NAME
from parity_check.engines.probe import Probe, read_probe
from parity_check.engines.replies import UnusableError
from parity_check.errors import ExitCode, InputError
from parity_check.locate.command import report
from parity_check.locate.differences import (
    by_layer,
    differences,
    first_beyond_noise,
    log_softmax,
    place_of,
    processing,
)
from parity_check.locate.document import document
from parity_check.locate.files import REPORT
from parity_check.locate.record import read
from parity_check.report.deliver import Delivery
from parity_check.report.renderers import RENDERERS, render


@pytest.mark.parametrize("module", MODULES)
def test_the_first_wrong_module_is_found(module: str) -> None:
    found = differences(a_probe(), a_probe(1, module), a_probe(2))
    first = first_beyond_noise(found)
    assert first is not None
    assert first.module == module
    assert first.noise == pytest.approx(1e-3, rel=0.2)


@given(seed=st.integers(1, 10_000))
def test_rounding_alone_is_nowhere(seed: int) -> None:
    assert first_beyond_noise(differences(a_probe(), a_probe(seed), a_probe(0))) is None


def test_an_error_below_the_noise_is_nowhere() -> None:
    found = differences(a_probe(), a_probe(1, "model.norm", error=5e-4), a_probe(2))
    assert first_beyond_noise(found) is None


def test_a_value_that_is_not_finite_is_beyond_noise() -> None:
    candidate = a_probe(1)
    candidate.modules["model.norm"][2, 5] = np.nan
    first = first_beyond_noise(differences(a_probe(), candidate, a_probe(2)))
    assert first is not None
    assert (first.module, first.relative) == ("model.norm", None)


def test_only_passes_of_both_engines_are_compared() -> None:
    """An engine may run a pass more, e.g. one that it scheduled ahead."""
    candidate = a_probe(1)
    longer = Probe(
        np.vstack([ROWS[:1] + 9, candidate.rows]),
        {name: np.vstack([99 * v[:1], v]) for name, v in candidate.modules.items()},
        candidate.dtypes,
        candidate.logprobs,
    )
    assert differences(a_probe(), longer, a_probe(2)) == differences(
        a_probe(), candidate, a_probe(2)
    )


def test_another_shape_is_not_compared() -> None:
    """As under tensor parallelism, where a module has a part of the columns."""
    candidate = a_probe(1)
    halved = replace(
        candidate,
        modules={**candidate.modules, "model.norm": candidate.modules["model.norm"][:, ::2]},
    )
    names = [each.module for each in differences(a_probe(), halved, a_probe(2))]
    assert names == [name for name in MODULES if name != "model.norm"]


@pytest.mark.parametrize(
    ("module", "place"),
    [
        ("model.layers.11.self_attn.o_proj", "layer 11, self_attn.o_proj"),
        ("model.layers.2", "layer 2, output"),
        ("transformer.h.3.attn", "layer 3, attn"),
        ("model.embed_tokens", "embed_tokens"),
        ("logits_processor", "logits_processor"),
    ],
)
def test_places(module: str, place: str) -> None:
    assert place_of(module) == place


def test_layers_are_grouped_in_order() -> None:
    found = differences(a_probe(), a_probe(1), a_probe(2))
    groups = [(place, len(group)) for place, group in by_layer(found)]
    size = len(INNER)
    assert groups == [
        ("model.embed_tokens", 1), ("layer 0", size), ("layer 1", size), ("model.norm", 1),
        ("logits_processor", 1),
    ]  # fmt: skip


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_processed_and_raw_logprobs_are_told_apart(temperature: float) -> None:
    probe, requests = a_probe(), [(4, [5, 6]), (7, [7, 8])]
    logits = probe.modules["logits_processor"].astype(float)
    processed = [float(log_softmax(logits[t - 5] / temperature)[t]) for t in (5, 6, 7, 8)]
    raw = [float(log_softmax(logits[t - 5])[t]) for t in (5, 6, 7, 8)]
    as_processed = replace(probe, logprobs=[processed[:2], processed[2:]])
    as_raw = replace(probe, logprobs=[raw[:2], raw[2:]])
    one, other = (processing(each, requests, temperature) for each in (as_processed, as_raw))
    assert one is not None
    assert other is not None
    assert one.off == pytest.approx(0, abs=1e-9)
    assert other.off_raw == pytest.approx(0, abs=1e-9)
    assert (other.off == pytest.approx(0, abs=1e-9)) == (temperature == 1.0)


def test_a_missing_logprob_is_not_finite() -> None:
    probe = replace(a_probe(), logprobs=[[None, -1.0], [-1.0, -1.0]])
    found = processing(probe, [(4, [5, 6]), (7, [7, 8])], 1.0)
    assert found is not None
    assert found.off is None


@pytest.mark.parametrize(
    ("name", "code", "outcome"),
    [
        ("clean", ExitCode.PARITY, "nowhere more than noise in 11 modules"),
        ("module", ExitCode.DRIFT, "the engines part in layer 1, self_attn.o_proj"),
        ("processing", ExitCode.DRIFT, "the engines part after the logits"),
        ("not-finite", ExitCode.DRIFT, "the engines part after the logits"),
    ],
)
def test_the_verdict(name: str, code: ExitCode, outcome: str) -> None:
    shown = document(LOCATED[name])
    assert (shown.exit_code, shown.outcome) == (code, outcome)


def test_without_logits_there_is_no_parity() -> None:
    assert document(replace(a_report(), processing=(None, None))).verdict == "inconclusive"


@pytest.mark.parametrize("name", LOCATED)
def test_a_stored_report_is_read_back_whole(name: str) -> None:
    shown = document(LOCATED[name])
    again = document(read(json.loads(render(shown, "json"))))
    for format in RENDERERS:
        assert render(again, format) == render(shown, format), format


@pytest.mark.parametrize(
    "change", [{"verdict": "parity"}, {"differences": []}, {"engines": []}, {"kind": "ablation"}]
)
def test_a_damaged_report_is_refused(change: dict[str, object]) -> None:
    tree = {**json.loads(render(document(LOCATED["module"]), "json")), **change}
    with pytest.raises(ValueError, match=r"."):
        read(tree)


def stored(path: Path, **changes: object) -> Path:
    probe = a_probe()
    arrays: dict[str, object] = {ROWS_NAME: probe.rows, **probe.modules, **changes}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})  # type: ignore[arg-type]
    return path


def test_arrays_are_read_in_order(tmp_path: Path) -> None:
    probe = a_probe()
    found = read_probe(stored(tmp_path / "a.npz"), probe.dtypes, probe.logprobs)
    assert list(found.modules) == list(MODULES)
    assert (found.rows == ROWS).all()


@pytest.mark.parametrize(
    "changes",
    [
        {ROWS_NAME: None},
        {ROWS_NAME: ROWS[:, :1]},
        {"model.norm": np.zeros((3, 4), np.float32)},
        {"model.norm": np.zeros((4, 4), np.float64)},
        {"model.norm": np.array([{}] * 4, dtype=object)},
        {"unknown": np.zeros((4, 4), np.float32)},
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    probe = a_probe()
    with pytest.raises(UnusableError):
        read_probe(stored(tmp_path / "a.npz", **changes), probe.dtypes, probe.logprobs)


@pytest.mark.parametrize("content", [b"", b"PK", b"\x80\x04K\x01."])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UnusableError):
        read_probe(tmp_path / "a.npz", {}, [])


@pytest.mark.parametrize(
    "change",
    [{"model": {}}, {"engines": {}}, {"kind": "ablation"}, {"verdict": "perhaps"}],
    ids=str,
)
def test_a_damaged_run_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    tree = json.loads(render(document(LOCATED["module"]), "json"))
    (tmp_path / REPORT).write_text(json.dumps({**tree, **change}))
    console = Console(0, False, False)
    with pytest.raises(InputError, match=f"{REPORT}: not a locate report"):
        report(tmp_path, Delivery(format="text"), console)
