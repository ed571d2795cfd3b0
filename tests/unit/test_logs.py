"""Scalar logs: every form of export gives the same curves, and limits are left where they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parity_check.config.load import load_judging
from parity_check.errors import InputError
from parity_check.logs.analyse import analyse, crossing
from parity_check.logs.names import NAMES, find, find_mangled
from parity_check.logs.pictures import BINS, thinned
from parity_check.logs.read import read_log
from parity_check.logs.report import Band, Series
from parity_check.measure.metrics import METRICS

KL = {1: 0.0002, 2: -0.0003, 3: 0.031}
NAME = "rollout_corr/kl"


def lines(*rows: object) -> str:
    return "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n"


FORMS: dict[str, tuple[str, str]] = {
    "a W&B chart": (
        "chart.csv",
        lines(
            f'"Step","r - {NAME}","r - {NAME}__MIN","r - {NAME}__MAX"',
            *(f'"{step}","{value}","-9","9"' for step, value in KL.items()),
        ),
    ),
    "a W&B history": (
        "r.csv",
        lines(
            f",_step,_timestamp,{NAME},prompts",
            *(f'{n},{step},17.5,{value},"{{}}"' for n, (step, value) in enumerate(KL.items())),
        ),
    ),
    "a history with gaps": (
        "r.csv",
        lines(f"_step,{NAME},eval/score", "0,,0.5", *(f"{s},{v}," for s, v in KL.items())),
    ),
    "a W&B history as JSON": (
        "r.json",
        json.dumps([{"_step": s, NAME: v, "h": {"bins": [1, 2]}} for s, v in KL.items()], indent=1),
    ),
    "JSON lines": (
        "r.jsonl",
        lines(*({"step": s, f"train/{NAME}": v, "reward": None} for s, v in KL.items())),
    ),
    "verl's file logger": (
        "r.jsonl",
        lines(*({"step": s, "data": {NAME: v, "timing_s/gen": 1}} for s, v in KL.items())),
    ),
    "trainer_state.json": (
        "r.json",
        json.dumps({"best": None, "log_history": [{"step": s, NAME: v} for s, v in KL.items()]}),
    ),
    "the trainer's step, not the logger's": (
        "r.jsonl",
        lines(*({"_step": 7 * s, "train/global_step": s, NAME: v} for s, v in KL.items())),
    ),
    "TensorBoard's CSV": (
        "run-r-tag-rollout_corr_kl.csv",
        lines("Wall time,Step,Value", *(f"1718000000.1,{s},{v}" for s, v in KL.items())),
    ),
    "TensorBoard's JSON": (
        "run-r-tag-rollout_corr_kl.json",
        json.dumps([[1718000000.1, step, value] for step, value in KL.items()]),
    ),
    "Windows": (
        "r.csv",
        "\ufeff" + "\r\n".join([f"Step,{NAME}", *(f"{s},{v}" for s, v in KL.items())]),
    ),
}  # fmt: skip


def written(directory: Path, name: str, text: str) -> Path:
    path = directory / name
    path.write_text(text, encoding="utf-8", newline="")
    return path


def series_of(*paths: Path, limits: tuple[str, ...] = ()) -> tuple[Series, ...]:
    return analyse([read_log(path) for path in paths], load_judging(None, limits))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_holds_the_same_curve(form: str, tmp_path: Path) -> None:
    [found] = series_of(written(tmp_path, *FORMS[form]))
    assert dict(zip(found.steps, found.values, strict=True)) == KL
    assert (found.run, found.framework, found.metric) == ("r", "verl", "k1_kl")
    assert found.logged_as.endswith(NAME)
    assert found.crossing is not None
    assert found.crossing.since == 3


def test_a_run_in_several_files_is_one_curve(tmp_path: Path) -> None:
    """A resumed run logs some steps again: what was logged last counts."""
    first = written(tmp_path, "run-r-tag-mismatch_kl.csv", "Wall time,Step,Value\n1,1,9\n1,2,9\n")
    (tmp_path / "resumed").mkdir()
    second = written(tmp_path / "resumed", first.name, "Wall time,Step,Value\n2,2,0.5\n2,3,0.25\n")
    [found] = series_of(first, second)
    assert (found.steps, found.values, found.replaced) == ((1, 2, 3), (9, 0.5, 0.25), 1)


def test_what_is_not_finite_is_counted_and_left_out(tmp_path: Path) -> None:
    values = (float("nan"), "Infinity", 0.5)
    rows = lines(*({"step": step, "vllm_kl": value} for step, value in enumerate(values, 1)))
    [found] = series_of(written(tmp_path, "a.jsonl", rows))
    assert (found.steps, found.not_finite) == ((3,), 2)


def test_every_name_is_a_known_metric_and_found() -> None:
    assert len({row.name for row in NAMES}) == len(NAMES)
    for row in NAMES:
        assert row.metric in METRICS
        assert row.limited_by is None or row.limited_by in METRICS
        assert find(row.name) is row
        assert find(f"some/group/{row.name}") is row
        assert find(f"un{row.name}") is not row
        assert find_mangled(row.name.replace("/", "_")) is row


def test_a_name_that_only_looks_alike_is_not_known() -> None:
    assert find("unmasked_mismatch_kl/all/mean") is None, "of a part of the tokens"
    assert find("actor/pg_clipfrac_lower") is None
    assert find_mangled("unmasked_mismatch_kl_all_mean") is None


def test_the_longer_name_wins() -> None:
    """slime's `mismatch_kl` is k1, prime-rl's is k3."""
    assert [find(name).metric for name in ("train/mismatch_kl", "mismatch_kl")] == [  # type: ignore[union-attr]
        "k1_kl", "k3_kl",
    ]  # fmt: skip


BANDS: dict[str, tuple[str, float, float]] = {
    "rollout_corr/kl": ("mean_log_ratio", -1e-3, 1e-3),
    "rollout_corr/k3_kl": ("k3_kl", -np.inf, 1e-3),
    "rl/ratio_new_old": ("mean_importance_ratio", 0.998, 1.002),
    "rl/ess": ("ess", 0.99, np.inf),
    "optim/kl_sample_train_v2": ("k3_kl", -np.inf, 1e-3),
}


@pytest.mark.parametrize("name", BANDS)
def test_limits_are_those_of_the_profile(name: str, tmp_path: Path) -> None:
    [found] = series_of(written(tmp_path, "a.csv", f"step,{name}\n1,0.5\n"))
    assert found.band is not None
    metric, low, high = BANDS[name]
    assert (found.band.metric, found.band.low, found.band.high) == (metric, low, high)


def test_a_clip_rate_has_the_users_limit_or_none(tmp_path: Path) -> None:
    """A profile's is of the first step, and a log's clip rate also holds the policy's change."""
    path = written(tmp_path, "a.csv", "step,actor/pg_clipfrac,train/tis_clipfrac\n1,0.5,0.5\n")
    assert [each.band for each in series_of(path)] == [None, None]
    clip, truncation = series_of(path, limits=("gates.clip_fraction=0.2",))
    assert clip.band is not None
    assert clip.band.high == 0.2
    assert truncation.band is None, "the share of another counter"


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=30))
def test_since_is_where_the_last_stretch_outside_begins(values: list[float]) -> None:
    band = Band("k1_kl", -0.5, 0.5, "± 0.5", "a test")
    outside = [abs(value) > 0.5 for value in values]
    found = crossing(list(enumerate(values)), band)
    if not any(outside):
        assert found is None
        return
    assert found is not None
    assert found.steps == sum(outside)
    assert (found.first, found.last) == (
        outside.index(True),
        len(values) - 1 - outside[::-1].index(True),
    )
    if not outside[-1]:
        assert found.since is None
    else:
        assert found.since is not None
        start = int(found.since)
        assert all(outside[start:])
        assert start == 0 or not outside[start - 1]


@given(st.integers(0, 5000), st.integers(0, 4999))
def test_a_thinned_curve_keeps_its_extremes(seed: int, spike: int) -> None:
    values = np.random.default_rng(seed).normal(size=5000)
    values[spike] = 100.0
    steps, kept = thinned(np.arange(5000.0), values)
    assert len(steps) <= 2 * BINS
    assert (kept.max(), kept.min()) == (values.max(), values.min())
    assert (np.diff(steps) > 0).all()


WRONG: dict[str, tuple[str, str, str]] = {
    "an empty file": ("a.csv", "\n", "the file is empty"),
    "no known name": ("a.csv", "step,loss,reward\n1,2,3\n", "no known metric"),
    "no step": ("a.csv", "rollout_corr/kl\n1\n", "no column says the step"),
    "no step in a row": ("a.jsonl", '{"step": 1, "vllm_kl": 1}\n{"vllm_kl": 1}\n', "line 2"),
    "a step that is none": ("a.csv", "step,vllm_kl\nNaN,1\n", "not a step"),
    "a value that is text": ("a.csv", "step,vllm_kl\n1,high\n", "`vllm_kl` is 'high'"),
    "a value that is true": ("a.jsonl", '{"step": 1, "vllm_kl": true}\n{}', "not a number"),
    "a huge integer": ("a.jsonl", '{"step": 1, "vllm_kl": 1' + "0" * 400 + "}\n{}", "not a number"),
    "a truncated line": ("a.csv", "step,vllm_kl,x\n1,2,3\n2,0.\n", "2 cells, but the header has 3"),
    "truncated JSON": ("a.jsonl", '{"step": 1, "vllm_kl": 1}\n{"step": 2, "vl', "truncated"),
    "a column twice": ("a.csv", "step,vllm_kl,vllm_kl\n1,2,3\n", "two columns"),
    "an open quote": ("a.csv", 'step,vllm_kl\n1,"2\n', "not valid CSV"),
    "TensorBoard without its name": ("kl.csv", "Wall time,Step,Value\n1,1,1\n", "run-RUN-tag-TAG"),
    "an unknown tag": ("run-a-tag-loss.csv", "Wall time,Step,Value\n1,1,1\n", "no known metric"),
    "a list of lists": ("a.json", "[[1, 2]]", "expected an object, or [wall time, step, value]"),
    "a string": ("a.json", '["x"]', "expected an object"),
    "an event file": ("events.out.tfevents.17.host", "x", "event file of TensorBoard"),
    "W&B's own file": ("run-abc.wandb", "x", "W&B's own file"),
    "nested deeply": ("a.jsonl", "[" * 100_000, "nested too deeply"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_error(case: str, tmp_path: Path) -> None:
    name, text, expected = WRONG[case]
    with pytest.raises(InputError) as caught:
        series_of(written(tmp_path, name, text))
    assert expected in f"{caught.value.message} {caught.value.hint}"
    assert "\n" not in caught.value.message


def test_the_error_names_the_file(tmp_path: Path) -> None:
    reads: Callable[[], object] = lambda: series_of(tmp_path / "missing.csv")  # noqa: E731
    with pytest.raises(InputError, match=r"missing\.csv"):
        reads()
