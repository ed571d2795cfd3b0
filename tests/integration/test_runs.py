"""`parity_check.load_run`, and the page that shows it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import parity_check
from conftest import Run
from parity_check.errors import InputError, TraceMismatchError
from parity_check.traces.trace import Trace

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "notebook.md"


def metric(run: Run, name: str, sampled_by: str) -> float:
    [found] = [
        entry
        for entry in run.report["metrics"]
        if entry["name"] == name and entry["sampled_by"] == sampled_by
    ]
    return float(found["value"])


def test_tokens_are_those_of_the_traces(drifting_run: Run) -> None:
    tokens = parity_check.load_run(drifting_run.path).tokens()
    assert len(tokens) == drifting_run.report["workload"]["tokens"]
    reference = tokens[tokens["sampled_by"] == "reference"]
    assert set(reference["evaluated_by"]) == {"candidate"}
    samples = list(Trace(drifting_run.path / "reference.parquet").samples())
    flat = [(s.sample_id, p) for s in samples for p in range(len(s.completion_token_ids))]
    assert list(zip(reference["sample_id"], reference["position"], strict=True)) == flat
    ids = [token for sample in samples for token in sample.completion_token_ids]
    assert reference["token_id"].tolist() == ids
    assert reference["token"].tolist() == [chr(token) for token in ids]


def test_tokens_give_the_numbers_of_the_report(drifting_run: Run) -> None:
    tokens = parity_check.load_run(drifting_run.path).tokens()
    for sampler, part in tokens.groupby("sampled_by", observed=True):
        means = {
            "mean_log_ratio": part["log_ratio"].mean(),
            "mean_importance_ratio": part["importance_ratio"].mean(),
            "rms_log_ratio": np.sqrt((part["log_ratio"] ** 2).mean()),
        }
        for name, value in means.items():
            assert value == pytest.approx(metric(drifting_run, name, str(sampler)))


def test_samples_sum_their_tokens(drifting_run: Run) -> None:
    run = parity_check.load_run(drifting_run.path)
    samples, tokens = run.samples(), run.tokens()
    assert len(samples) == drifting_run.report["workload"]["samples"]
    keys = ["sampled_by", "sample_id"]
    sums = tokens.groupby(keys, observed=True)["log_ratio"].sum()
    assert sums.to_numpy() == pytest.approx(
        samples.set_index(keys)["sum_log_ratio"].loc[sums.index].to_numpy()
    )
    assert samples["tokens"].sum() == len(tokens)
    assert samples["text"].map(len).tolist() == samples["tokens"].tolist()
    ratio = np.exp(samples["sum_log_ratio"] / samples["tokens"])
    assert samples["geometric_mean_ratio"].to_numpy() == pytest.approx(ratio.to_numpy())


def test_the_report_is_the_runs(drifting_run: Run) -> None:
    run = parity_check.load_run(str(drifting_run.path))
    assert run.report == drifting_run.report
    assert repr(run).endswith("sampled by reference and candidate)")


def test_a_directory_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no traces here"):
        parity_check.load_run(tmp_path)


def test_a_run_without_a_report(drifting_run: Run, tmp_path: Path) -> None:
    for trace in drifting_run.path.glob("*.parquet"):
        (tmp_path / trace.name).symlink_to(trace)
    run = parity_check.load_run(tmp_path)
    assert len(run.tokens())
    with pytest.raises(InputError, match="cannot read the report"):
        _ = run.report


@pytest.mark.parametrize(
    ("text", "expected"),
    [("{", "not valid JSON"), ("[1]", "not a report"), ("[" * 10_000, "nested too deeply")],
    ids=["truncated", "a list", "deep"],
)
def test_a_run_with_a_damaged_report(
    drifting_run: Run, tmp_path: Path, text: str, expected: str
) -> None:
    for trace in drifting_run.path.glob("*.parquet"):
        (tmp_path / trace.name).symlink_to(trace)
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(InputError, match=expected):
        _ = parity_check.load_run(tmp_path).report


def test_traces_that_do_not_belong_together(drifting_run: Run, tmp_path: Path) -> None:
    for name in ("reference", "candidate"):
        trace = drifting_run.path / f"{name}.parquet"
        (tmp_path / trace.name).symlink_to(trace)
    wrong = tmp_path / "reference-replayed-by-candidate.parquet"
    wrong.symlink_to(drifting_run.path / "candidate.parquet")
    with pytest.raises(TraceMismatchError, match="was not replayed from"):
        parity_check.load_run(tmp_path).tokens()


def test_importing_the_package_loads_no_table_library() -> None:
    program = "import sys, parity_check, parity_check.cli.main; print(*sys.modules)"
    loaded = set(subprocess.check_output([sys.executable, "-c", program], text=True).split())
    assert not {"pandas", "pyarrow", "scipy", "numpy"} & loaded


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = parity_check.nothing


def test_the_notebook_page_runs(drifting_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 6
    monkeypatch.chdir(drifting_run.home)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    slope = names["slope"]
    assert isinstance(slope, float)
    assert 0.5 < slope < 1.5
