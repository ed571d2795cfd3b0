"""Replicas on a local Ray cluster, with fake engines: dealt, repeated elsewhere, lost, ended."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from helpers.support import (
    COMMAND,
    assert_fails,
    call_cli,
    command_of,
    environment,
    fake_config,
    only_run,
    processes_naming,
    start_cli,
    wait_for,
)
from parity_check.config.load import parse_config
from parity_check.engines.kinds import configured_engine
from parity_check.engines.placement.engine import Placed, PlacedSpec
from parity_check.errors import ConfigError, EngineEnvironmentError, EngineError, InputError
from parity_check.traces.trace import Trace, read_header

pytestmark = pytest.mark.slow

SAMPLING = {"temperature": 1.0}


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """Two raylets on this machine, with two CPUs and a resource of its own each."""
    from ray.cluster_utils import Cluster

    made = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 2, "include_dashboard": False, "resources": {"blue": 2}},
    )
    made.add_node(num_cpus=2, resources={"green": 2})
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture(scope="module")
def cluster(nodes: Any) -> str:
    return str(nodes.address)


def spec(address: str | None, engine_args: dict[str, Any] | None = None, **keys: Any) -> PlacedSpec:
    engine = {
        "kind": "fake",
        "engine_args": engine_args or {},
        "placement": {"kind": "ray", "replicas": 2, "address": address, **keys},
    }
    config = parse_config({"reference": engine, "candidate": {"kind": "fake"}}, "test")
    made = configured_engine("reference", config).spec("bundled:tiny", None)
    assert isinstance(made, PlacedSpec)
    return made


def started(spec: PlacedSpec, directory: Path, progress: Any = lambda *_: None) -> Placed:
    return spec.start(directory / "jobs", directory / "reference.log", 30, progress)


def requests(count: int, tokens: int = 6) -> list[dict[str, Any]]:
    return [
        {
            "sample_id": f"s{n}",
            "prompt_token_ids": [1, n % 250],
            "completion_token_ids": [n % 200, *range(tokens - 1)],
        }
        for n in range(count)
    ]


def score(engine: Placed, asked: list[dict[str, Any]]) -> list[list[float | None]]:
    rows = engine.score("replay", asked, sampling=SAMPLING, top_logprobs=2)
    assert [row.sample_id for row in rows] == [each["sample_id"] for each in asked]
    return [list(row.logprobs) for row in rows]


@pytest.fixture
def two(cluster: str, tmp_path: Path) -> Iterator[Placed]:
    engine = started(spec(cluster), tmp_path)
    engine.load()
    yield engine
    engine.close()


def test_two_replicas_answer_as_one_engine(two: Placed, cluster: str, tmp_path: Path) -> None:
    found = two.description.replicas
    assert found is not None
    assert (found.count, found.nodes, found.lost) == (2, (socket.gethostname(),), ())
    one = started(spec(cluster, replicas=1), tmp_path)
    one.load()
    asked = requests(20)
    assert score(two, asked) == score(one, asked)
    assert set(two._first.values()) == {1, 2}
    assert two.decode([65, 66]) == one.decode([65, 66]) == ["A", "B"]
    one.close()


def test_an_engine_has_the_threads_that_it_has_without_a_cluster(two: Placed) -> None:
    """Ray sets OMP_NUM_THREADS to the CPUs that an actor reserves: a slower, other engine."""
    engines = engines_of("reference")
    assert len(engines) == 2
    for pid in engines:
        names = {
            each.split(b"=")[0] for each in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        }
        assert (b"OMP_NUM_THREADS" in names) == ("OMP_NUM_THREADS" in os.environ)


def test_what_the_cluster_says_is_not_in_the_report(
    two: Placed, capsys: pytest.CaptureFixture[str]
) -> None:
    message = {"lines": ["8 workers have been started"], "pid": "raylet", "is_err": False}
    ray._private.worker.print_to_stdstream(message, ignore_prefix=False)
    assert capsys.readouterr().out == ""


def test_a_replica_that_dies_loses_nothing(cluster: str, tmp_path: Path) -> None:
    slow = {"delay_s": 0.15}
    seen: list[int] = []
    engine = started(spec(cluster, slow), tmp_path, lambda op, done, *_: kill_at(done))
    victims: list[int] = []

    def kill_at(done: int) -> None:
        seen.append(done)
        if done >= 5 and victims:
            os.kill(victims.pop(), signal.SIGKILL)

    engine.load()
    asked = requests(40)
    expected = score(engine, asked)
    victims.append(ray.get(engine._actors[2].process.remote()))
    children = engines_of("reference")
    assert score(engine, asked) == expected
    found = engine.description.replicas
    assert found is not None
    assert len(found.lost) == 1
    assert "replica 2 on" in found.lost[0]
    assert "during score: 20 requests dealt again" in found.lost[0]
    assert list(engine._actors) == [1]
    assert score(engine, asked) == expected  # the one that is left
    engine.close()
    assert max(seen) <= 40
    assert len(children) == 2
    gone(children)


def test_a_defect_on_a_node_is_an_error_and_no_endless_wait(two: Placed) -> None:
    with pytest.raises(EngineError, match=r"failed on its node: AttributeError: .*replica 1 on"):
        two._all("no_such_operation", {1: ((), {})})
    assert two.decode([65]) == ["A"]


def test_losses_are_bounded(cluster: str, tmp_path: Path) -> None:
    """An engine that crashes at every try is an error, with what its replicas' engines said."""
    crashing = {"fault": {"op": "replay", "after": 1, "how": "crash"}}
    engine = started(spec(cluster, crashing, losses=1), tmp_path)
    engine.load()
    with pytest.raises(EngineError, match=r"crashed|killed|lost"):
        score(engine, requests(8))
    engine.kill()


def test_a_failure_names_the_replica_and_keeps_its_log(cluster: str, tmp_path: Path) -> None:
    broken = {"fault": {"op": "load", "after": 0, "how": "out_of_memory"}}
    engine = started(spec(cluster, broken), tmp_path)
    with pytest.raises(EngineError, match=r"could not start: .*\(replica \d on ") as failed:
        engine.load()
    assert failed.value.kind == "out_of_memory"
    assert failed.value.log is not None
    assert failed.value.log.name in ("reference-replica-1.log", "reference-replica-2.log")
    engine.kill()


def test_a_wrong_request_is_an_input_error(two: Placed) -> None:
    with pytest.raises(InputError, match="replica"):
        score(two, requests(2, tokens=5000))


def test_what_the_cluster_does_not_have(cluster: str, tmp_path: Path) -> None:
    with pytest.raises(
        EngineEnvironmentError,
        match=r"^3 replicas of the reference need GPU 3; the Ray cluster has GPU 0$",
    ):
        started(spec(cluster, replicas=3, gpus=1), tmp_path)
    with pytest.raises(EngineEnvironmentError, match=r"need blue 3; the Ray cluster has blue 2"):
        started(spec(cluster, replicas=3, resources={"blue": 1}), tmp_path)


def test_room_that_others_hold_is_not_waited_for_for_ever(two: Placed, tmp_path: Path) -> None:
    with pytest.raises(
        EngineEnvironmentError, match=r"[12] of 2 replicas .* had no room .* in 2 s; free are CPU"
    ):
        started(spec(None, cpus=1.5, wait_s=2.0), tmp_path)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"cpus": 0.00001}, "Ray refuses this placement: ."),
        ({"runtime_env": {"working_dir": "/no/such/folder"}}, "Ray refuses this placement: ."),
        ({"runtime_env": {"envvars": {"A": "1"}}}, "placement.runtime_env has no `envvars`"),
    ],
)
def test_what_ray_refuses_is_one_line(
    cluster: str, tmp_path: Path, wrong: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=f"^reference: {message}"):
        started(spec(cluster, **wrong), tmp_path)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_no_cluster_at_the_address(tmp_path: Path, address: str) -> None:
    config = placed_config(tmp_path, address)
    environ = {name: value for name, value in environment().items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [*COMMAND, "compare", "-c", str(config)],
        cwd=tmp_path,
        env={**environ, "RAY_TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert_fails(done, 3, f"cannot connect to the Ray cluster at {address}")


def test_what_is_asked_of_a_cluster_is_shown_before_it_is_used(tmp_path: Path) -> None:
    config = placed_config(tmp_path, "auto")
    asked = ("--set", "candidate.placement.resources={blue=0.5}")
    said = "2 replicas on Ray cluster auto, each with CPU 1, blue 0.5"
    done = call_cli("compare", "-c", config, *asked, "--dry-run", cwd=tmp_path)
    assert f"candidate: {said}" in done.stderr.splitlines()
    done = call_cli("doctor", "-c", config, *asked, cwd=tmp_path)
    assert re.search(f"placement +{said}$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("other", "said"), [('address = "10.1.1.1:6379"', "= 10.1.1.1:6379"), ("", "is left out")]
)
def test_engines_of_one_run_are_in_one_cluster(tmp_path: Path, other: str, said: str) -> None:
    config = placed_config(tmp_path, "auto")
    with config.open("a") as file:
        file.write(f'[reference.placement]\nkind = "ray"\n{other}\n')
    done = call_cli("compare", "-c", config, "--dry-run", cwd=tmp_path)
    assert_fails(done, 2, f"reference.placement.address {said}, candidate.placement.address = auto")


@pytest.mark.parametrize("address", ["junk", "http://head:8265", "head"])
def test_what_is_no_address_of_a_cluster(tmp_path: Path, address: str) -> None:
    done = call_cli("compare", "-c", placed_config(tmp_path, address), "--dry-run", cwd=tmp_path)
    assert_fails(done, 2, "candidate.placement.address", "expected auto, HOST:PORT or ray://")


def test_ray_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    config = placed_config(tmp_path, "auto")
    done = call_cli("compare", "-c", config, cwd=tmp_path)
    assert_fails(done, 2, 'placement.kind = "ray" needs the package ray', "rollout-parity[ray]")


def placed_config(directory: Path, address: str) -> Path:
    path = fake_config(directory)
    text = path.read_text()
    table = f'\n[candidate.placement]\nkind = "ray"\nreplicas = 2\naddress = "{address}"\n'
    path.write_text(text + table)
    return path


def test_compare_with_replicas_is_compare_without(cluster: str, tmp_path: Path) -> None:
    plain, placed = tmp_path / "plain", tmp_path / "placed"
    plain.mkdir()
    placed.mkdir()
    one = call_cli("compare", "-c", fake_config(plain), cwd=plain)
    two = call_cli("compare", "-c", placed_config(placed, cluster), cwd=placed)
    assert one.returncode == two.returncode, two.stderr
    runs = only_run(plain), only_run(placed)
    name = "reference-replayed-by-candidate.parquet"
    ours, theirs = ([sample.logprobs for sample in Trace(run / name).samples()] for run in runs)
    np.testing.assert_array_equal(np.concatenate(ours), np.concatenate(theirs))
    assert read_header(runs[1] / name).engine.replicas is not None
    report = json.loads((runs[1] / "report.json").read_text())
    device = report["engines"]["candidate"]["device"]
    assert "2 replicas on" in device
    assert "runs on another one" in device
    assert {each.name for each in runs[1].glob("candidate-replica-*.log")} == {
        "candidate-replica-1.log",
        "candidate-replica-2.log",
    }


def test_locate_and_weight_sync_need_one_engine(cluster: str, tmp_path: Path) -> None:
    config = placed_config(tmp_path, cluster)
    done = call_cli("weight-sync", "-c", config, cwd=tmp_path)
    assert_fails(done, 2, "on a cluster")


def test_an_interrupt_ends_actors_and_their_engines(cluster: str, tmp_path: Path) -> None:
    config = placed_config(tmp_path, cluster)
    process = start_cli(
        *("compare", "-c", config, "--set", "candidate.engine_args.delay_s=0.3"), cwd=tmp_path
    )
    workers = wait_for(lambda: len(found := engines_of("candidate")) == 2 and found, "two engines")
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    gone(workers)


def engines_of(role: str) -> list[int]:
    """The processes of a role's fake engines in actors; what launches one becomes it."""
    return [
        pid
        for pid in processes_naming(f"parity-check-{role}-")
        if "engines/worker" in (command := command_of(pid)) and "launch.py" not in command
    ]


def gone(pids: list[int]) -> None:
    wait_for(lambda: not any(map(command_of, pids)), "the end of the engines")


def test_replicas_that_differ_are_an_error_that_names_both(two: Placed) -> None:
    mine = two.description
    for changed, said in (
        (replace(mine, packages={**mine.packages, "torch": "2.9"}), "differ in packages: torch: "),
        (replace(mine, model={**mine.model, "weights": {"a": "1"}}), "differ in model: weights: "),
        (replace(mine, device="another"), "differ in device: "),
    ):
        with pytest.raises(EngineError, match=said) as failed:
            two._check_same(1, mine, 2, changed)
        assert failed.value.kind == "replicas_differ"
        assert f"replica 1 on {two._nodes[1]}, replica 2 on {two._nodes[2]}" in str(failed.value)


def test_a_node_that_dies_loses_nothing(nodes: Any, cluster: str, tmp_path: Path) -> None:
    """The last test here: the cluster has one node afterwards."""
    doomed = next(node for node in nodes.list_all_nodes() if not node.head)

    def lose_it(operation: str, done: int, *_: object) -> None:
        if done >= 5 and doomed in nodes.list_all_nodes():
            nodes.remove_node(doomed, allow_graceful=False)

    engine = started(spec(cluster, {"delay_s": 0.15}), tmp_path, lose_it)
    engine.load()
    asked = requests(40)
    assert len(score(engine, asked)) == 40
    found = engine.description.replicas
    assert found is not None
    assert len(found.lost) == 1
    assert "during score: 20 requests dealt again" in found.lost[0]
    engine.close()
