"""Training on real engines: the gradient, updates in flight, and a whole small run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from engines.support import make_environment, make_spec
from engines.test_trainer import trainer_config
from helpers.checkpoints import perturbed
from helpers.support import call_cli
from parity_check.config.training import Training
from parity_check.engines.client import WorkerEngine
from parity_check.engines.kinds import configured_engine
from parity_check.engines.pauses import IN_PROCESS
from parity_check.engines.replies import Flying
from parity_check.errors import EngineError, InputError
from parity_check.measure.objectives import OBJECTIVES
from parity_check.recording import requests
from parity_check.traces.checkpoint import locate_model
from parity_check.traces.prompts import ASSETS, read_prompts
from parity_check.traces.trace import Trace
from parity_check.training.curves import objective_of

LEARNER = "0.18.1"
TEMPERATURE = 0.7
OPTIMIZER: dict[str, Any] = {"learning_rate": 1e-4, "betas": [0.9, 0.95], "weight_decay": 0.01}
LOSSES = [
    *((loss, "bypass") for loss in ("gspo", "grpo", "ppo")),
    *((loss, "recompute") for loss in ("gspo", "grpo", "ppo")),
]
CAP, NORM = 1.05, 0.3
EDGES = {"gspo": (0.02, 0.03), "grpo": (0.1, 0.15), "ppo": (0.1, 0.15)}
TOKENS, AFTER = 24, 12
SAMPLING = {
    "temperature": TEMPERATURE, "top_p": 1.0, "top_k": -1, "min_p": 0.0,
    "presence_penalty": 0.0, "frequency_penalty": 0.0, "repetition_penalty": 1.0,
}  # fmt: skip


# --- the trainer ----------------------------------------------------------------------------------


class Learner(NamedTuple):
    worker: WorkerEngine
    samples: list[dict[str, Any]]


@pytest.fixture(scope="module")
def learner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Learner]:
    """In float32, so that another order of the same sums makes a difference of 1e-6."""
    home = tmp_path_factory.mktemp("learner")
    config = trainer_config(LEARNER, dtype="float32", samples_per_batch=3)
    model = locate_model(config.model)
    spec = configured_engine("candidate", config).spec(model, make_environment(LEARNER))
    spec = replace(spec, backend="learner")
    with WorkerEngine(spec, home / "jobs", home / "log", 300, lambda *_: None) as worker:
        worker.load()
        yield Learner(worker, list(_samples(worker)))


def _samples(worker: WorkerEngine) -> Iterator[dict[str, Any]]:
    """Two samples of each of four prompts; behaviour logprobs with an error that clips some."""
    source = np.random.default_rng(3)
    prompts = read_prompts("bundled:prompts")[:4]
    for prompt, ids in zip(prompts, requests.tokenize(worker, prompts), strict=True):
        for number, length in enumerate((7, 12)):
            completion = source.integers(10, 4000, length).tolist()
            request = {
                "sample_id": f"{prompt.prompt_id}/{number}",
                "prompt_token_ids": ids,
                "completion_token_ids": completion,
            }
            [row] = worker.score("rescore", [request], sampling=SAMPLING, top_logprobs=0)
            exact = np.array(row.logprobs, dtype=np.float64)
            error = source.normal(0.03 * (1 if number else -1), 0.1, length)
            yield {
                **request,
                "logprobs": (exact + error).astype(np.float32).astype(float).tolist(),
                "advantage": float(source.normal()),
            }


def learn(learner: Learner, loss: str, old: str, **changes: Any) -> Any:
    low, high = EDGES[loss]
    learner.worker.begin(**OPTIMIZER)
    return learner.worker.learn(
        learner.samples,
        loss=loss,
        old_logprobs=old,
        epsilon_low=low,
        epsilon_high=high,
        weight_cap=CAP,
        optimizer_steps=1,
        max_grad_norm=NORM,
        sampling=SAMPLING,
        **changes,
    )


@pytest.fixture(scope="module")
def plain(
    learner: Learner,
    in_process: Callable[..., dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[tuple[str, str], dict[str, Any]]:
    """Each loss's step in plain torch; `weights` is a file."""
    home = tmp_path_factory.mktemp("plain")
    samples = [
        {
            "prompt": each["prompt_token_ids"],
            "completion": each["completion_token_ids"],
            "logprobs": each["logprobs"],
            "advantage": each["advantage"],
        }
        for each in learner.samples
    ]
    cases = [
        {
            "loss": loss,
            "old_logprobs": old,
            "low": EDGES[loss][0],
            "high": EDGES[loss][1],
            "weights": str(home / f"{loss}-{old}.safetensors"),
        }
        for loss, old in LOSSES
    ]
    shared = {"cap": CAP, "temperature": TEMPERATURE, "max_grad_norm": NORM, **OPTIMIZER}
    answer = in_process(LEARNER, "one_step.py", {"samples": samples, "cases": cases, **shared})
    return {
        key: {**case, **step}
        for key, case, step in zip(LOSSES, cases, answer["steps"], strict=True)
    }


@pytest.mark.parametrize(("loss", "old"), LOSSES)
def test_one_step_is_that_of_plain_torch(
    learner: Learner,
    plain: dict[tuple[str, str], dict[str, Any]],
    tmp_path: Path,
    loss: str,
    old: str,
) -> None:
    expected = plain[loss, old]
    _, found = learn(learner, loss, old)
    learner.worker.save(tmp_path / "learned")
    assert found.loss == pytest.approx(expected["loss"], rel=1e-4, abs=1e-6)
    assert found.grad_norm == pytest.approx(expected["grad_norm"], rel=1e-4)
    assert found.grad_norm > NORM  # so that clipping is part of what is compared
    first = weights(ASSETS / "tiny" / "model.safetensors")
    wanted_weights = weights(Path(expected["weights"]))
    learned = weights(tmp_path / "learned" / "model.safetensors")
    for name, before in first.items():
        step, wanted = learned[name] - before, wanted_weights[name] - before
        # AdamW's first step is the sign of the gradient, so of a gradient of 0 it is noise.
        assert np.mean(np.abs(step - wanted) > 0.02 * OPTIMIZER["learning_rate"]) < 0.01, name
        assert np.abs(wanted).max() > 0.5 * OPTIMIZER["learning_rate"], name


def weights(path: Path) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    """The tensors of a safetensors file, as float64."""
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header, data = json.loads(raw[8 : 8 + size]), raw[8 + size :]
    found = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        low, high = entry["data_offsets"]
        bits = np.frombuffer(data[low:high], {"F32": "<f4", "BF16": "<u2"}[entry["dtype"]])
        if entry["dtype"] == "BF16":
            bits = (bits.astype(np.uint32) << 16).view(np.float32)
        found[name] = bits.astype(np.float64).reshape(entry["shape"])
    return found


def test_a_run_begins_with_the_weights_of_the_checkpoint(learner: Learner) -> None:
    before, _ = learn(learner, "gspo", "bypass")
    again, _ = learn(learner, "gspo", "bypass")
    assert [row.logprobs for row in before] == [row.logprobs for row in again]


def test_a_loss_that_is_not_finite_ends_the_run_and_not_the_trainer(learner: Learner) -> None:
    broken = [{**each, "advantage": 1e308} for each in learner.samples]
    with pytest.raises(EngineError, match="the loss is") as raised:
        learn(Learner(learner.worker, broken), "grpo", "bypass")
    assert raised.value.kind == "not_finite"
    learn(learner, "grpo", "bypass")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("raise KeyError('answer')", "KeyError: 'answer'"),
        ("return float('nan')", "returned 'nan' instead of a finite number"),
        ("return 'good'", "returned 'good' instead of a finite number"),
        ("time.sleep(30)", "no answer within 0.2 s"),
    ],
)
def test_a_reward_that_fails_is_one_line(
    learner: Learner, tmp_path: Path, body: str, says: str
) -> None:
    name = f"rewards_{abs(hash(body))}"
    text = f"import time\n\ndef score(prompt, completion, answer):\n    {body}\n"
    (tmp_path / f"{name}.py").write_text(text)
    asked = {"sample_id": "a/0", "prompt": "p", "completion": "c", "answer": None}
    with pytest.raises(InputError) as raised:
        learner.worker.reward(
            [asked], function=f"{name}:score", python_path=str(tmp_path), timeout_s=0.2
        )
    assert f"training.reward: {name}:score on sample a/0: " in raised.value.message
    assert says in raised.value.message


def test_a_reward_that_is_not_there_is_one_line(learner: Learner, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot use nowhere:score: ModuleNotFoundError"):
        learner.worker.reward(
            [], function="nowhere:score", python_path=str(tmp_path), timeout_s=1.0
        )


# --- updates in flight ----------------------------------------------------------------------------


class Flight(NamedTuple):
    """Rollouts through one update, and the same tokens by other ways."""

    rows: list[Flying]
    cold: list[list[float]]
    """Logprobs of an engine that was started with the old weights."""
    kept: list[Flying]
    """The same tokens forced through the same update, by `weight-sync`."""


@pytest.fixture(scope="module", params=["0.8.5", "0.18.1"])
def flight(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Flight:
    version: str = request.param
    home = tmp_path_factory.mktemp(f"flight-{version}")
    new = str(perturbed(home / "new", 0.3))
    spec = make_spec(version, env=IN_PROCESS)
    with (
        WorkerEngine(spec, home / "jobs", home / "log", 300, lambda *_: None) as worker,
        WorkerEngine(spec, home / "cold", home / "cold.log", 300, lambda *_: None) as other,
    ):
        with ThreadPoolExecutor() as both:
            list(both.map(WorkerEngine.load, (worker, other)))
        prompts = read_prompts("bundled:prompts")[:8]
        ids = requests.tokenize(worker, prompts)
        names = [prompt.prompt_id for prompt in prompts]
        options: dict[str, Any] = {
            "mode": "keep", "clear_cache": False, "update": None, "python_path": None,
        }  # fmt: skip
        sampled = {"max_tokens": TOKENS, "ignore_eos": True, "sampling": SAMPLING, "tokens": AFTER}
        first = [
            {"sample_id": name, "prompt_token_ids": tokens, "due": False}
            for name, tokens in zip(names, ids, strict=True)
        ]
        nothing, _ = worker.rollout(first, checkpoint=None, **options, **sampled)
        assert nothing == []
        due = [{"sample_id": name, "due": True} for name in names]
        rows, pause = worker.rollout(due, checkpoint=new, **options, **sampled)
        assert pause.paused_s >= pause.load_s > 0
        forced = [
            {
                "sample_id": row.sample_id,
                "prompt_token_ids": tokens,
                "completion_token_ids": row.token_ids,
                "in_flight": True,
            }
            for row, tokens in zip(rows, ids, strict=True)
        ]
        cold = other.score("replay", forced, sampling=SAMPLING, top_logprobs=0)
        kept, _ = other.weight_sync(
            forced,
            checkpoints=[new],
            update_after_tokens=AFTER,
            max_tokens=TOKENS,
            sampling=SAMPLING,
            **options,
        )
    return Flight(rows, [[x or 0.0 for x in row.logprobs] for row in cold], kept)


def test_tokens_of_one_sequence_have_two_policy_versions(flight: Flight) -> None:
    moved = []
    for row, cold, kept in zip(flight.rows, flight.cold, flight.kept, strict=True):
        [switch] = row.switches
        assert 0 < switch < TOKENS == len(row.token_ids)
        assert row.text
        logprobs = np.array(row.logprobs, dtype=np.float64)
        old = np.abs(logprobs - np.array(cold))
        assert old[:switch].max() < 1e-4  # the weights before the update
        moved.append(old[switch:].mean())
        assert kept.switches == [switch]
        again = np.abs(logprobs - np.array(kept.logprobs, dtype=np.float64))
        assert again.max() < 1e-4  # those of the new checkpoint, over the KV of the old one
    assert np.mean(moved) > 0.1  # behind the update, the weights are not the old ones


# --- a whole run ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """Four steps of the example's three arms, with the rollouts of every step; two seeds."""
    home = tmp_path_factory.mktemp("trained")
    few = {
        "training.steps": 4, "training.seeds": [1, 2], "workload.num_prompts": 12,
        "workload.samples_per_prompt": 2,
    }  # fmt: skip
    changes = [part for key, value in few.items() for part in ("--set", f"{key}={value}")]
    done = call_cli(
        "train", "-c", "bundled:training-curves", "--keep-rollouts", *changes, "-o", "runs",
        cwd=home,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    [run] = (home / "runs").iterdir()
    return run, json.loads((run / "training.json").read_text()), done.stdout


def test_the_initial_attempt_leaves_the_band_and_the_fixed_one_does_not(
    trained: tuple[Path, dict[str, Any], str],
) -> None:
    _, report, text = trained
    found = {(each["arm"], each["curve"]): each["distance"] for each in report["results"]}
    for curve in ("clip_rate", "k3_kl"):
        assert found["initial", curve]["verdict"] == "drift"
        assert found["initial", curve]["first_outside"] == 0
        assert found["fixed", curve]["verdict"] != "drift"
    compared = {arm["name"]: arm["compared"] for arm in report["arms"]}
    assert compared["initial"] == "drift"
    assert compared["fixed"] != "drift"
    assert "✗ DRIFT" in text.splitlines()[-1]


def test_every_arm_has_the_same_prompts_and_its_own_lag(
    trained: tuple[Path, dict[str, Any], str],
) -> None:
    run, report, _ = trained
    prompts = {
        name: [s.prompt_token_ids for s in Trace(run / "rollouts" / name / LAST).samples()]
        for name in ("reference-1", "reference-2", "initial-1", "fixed-1")
    }
    assert len({json.dumps(each) for each in prompts.values()}) == 1
    lags = {(s["arm"], s["step"]): s["largest_lag"] for s in report["steps"]}
    assert {lags["fixed", step] for step in range(1, 4)} == {1}
    assert lags["initial", 3] == 3  # no more than the steps before
    assert lags["fixed", 0] == 0


LAST = "step-0003.parquet"


def test_the_clip_rate_is_the_one_that_compare_counts(
    trained: tuple[Path, dict[str, Any], str],
) -> None:
    run, report, _ = trained
    place = run / "rollouts" / "reference-1"
    done = call_cli(
        "compare", place / LAST, place / LAST.replace(".", "-trainer."), "--format", "json",
        "--set", "objective.kind=gspo-pipelinerl", cwd=run,
    )  # fmt: skip
    step = next(
        s for s in report["steps"] if (s["arm"], s["step"]) == ("reference", 3) and s["seed"] == 1
    )
    numbers = {m["name"]: m["value"] for m in json.loads(done.stdout)["metrics"]}
    assert objective_of(Training(trainer=FAKE)) == OBJECTIVES["gspo-pipelinerl"]
    assert step["clip_rate"] == pytest.approx(numbers["clip_fraction"], abs=1e-12)
    for own, theirs in (("k3_kl", "k3_kl"), ("mean_ratio", "mean_importance_ratio")):
        assert step[own] == pytest.approx(numbers[theirs], rel=1e-9)


FAKE: Any = {"kind": "fake"}


def test_the_curves_are_tables(trained: tuple[Path, dict[str, Any], str]) -> None:
    run, report, _ = trained
    lines = (run / "curves.csv").read_text().splitlines()
    runs, steps = 2 + 2, 4  # two seeds of the reference, two arms
    assert len(lines) == 1 + runs * steps == 1 + len(report["steps"])
    assert (run / "report.html").stat().st_size > 10_000
    again = call_cli("report", run, cwd=run)
    assert again.returncode == 1
    assert "initial" in again.stdout
