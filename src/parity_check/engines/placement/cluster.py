"""The Ray cluster: connect to it, see what it has, start the actors, ask them.

ray is imported here alone, when an engine is placed on a cluster.
"""

from __future__ import annotations

import inspect
import os
import signal
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from parity_check import interrupts
from parity_check.config.engines import Placement
from parity_check.engines.client import WorkerSpec
from parity_check.engines.placement.replica import Replica, State
from parity_check.errors import ConfigError, EngineEnvironmentError, nearest
from parity_check.words import count

CONNECT_S = 10.0
PROGRESS_S = 1.0
"""How often a replica that works tells how far it is. It tells its end at once."""
ANSWER_S = 30.0
"""The longest that an actor takes for a short call."""
_connecting = threading.Lock()


def connect(placement: Placement) -> None:
    """Connect to the cluster, once. Raises ConfigError and EngineEnvironmentError."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise ConfigError(
            'placement.kind = "ray" needs the package ray',
            hint="pip install 'rollout-parity[ray]', in the version of the cluster",
        ) from None
    with _connecting, _signals_kept():
        if ray.is_initialized():
            return  # for another engine of this run, of the same address: `check_one_cluster`
        try:
            _answers(placement.address)
            ray.init(
                address=placement.address or "local",
                include_dashboard=False if placement.address is None else None,
                log_to_driver=False,
                logging_level="ERROR",
            )
            # Ray prints messages of the cluster to stdout, also without `log_to_driver`; that is
            # for reports. Its own debugger silences them like this.
            ray._private.worker._worker_logs_enabled = False
        except Exception as error:
            where = placement.address or "this machine"
            raise EngineEnvironmentError(
                f"cannot connect to the Ray cluster at {where}: {_first_line(error)}",
                hint="check [placement] address (auto, HOST:PORT, ray://…), and that ray has the "
                "cluster's version; without address, a local cluster is started",
            ) from None


def _answers(address: str | None) -> None:
    """Whether somebody listens at HOST:PORT, which Ray tries for minutes. Raises OSError."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), CONNECT_S).close()


def check_resources(role: str, placement: Placement, one: Mapping[str, float]) -> None:
    """Refuse more than the cluster has, which it would wait for. Raises EngineEnvironmentError."""
    import ray

    has = ray.cluster_resources()
    lacking = {
        name: amount * placement.replicas
        for name, amount in one.items()
        if amount * placement.replicas > has.get(name, 0)
    }
    if lacking:
        replicas = count(placement.replicas, "replica")
        raise EngineEnvironmentError(
            f"{replicas} of the {role} need {_listed(lacking)}; the Ray cluster has "
            f"{_listed({name: has.get(name, 0) for name in lacking})}",
            hint="lower replicas, or what each needs, in [placement]",
        )


def start(
    role: str, placement: Placement, one: Mapping[str, float], spec: WorkerSpec, stall_s: float
) -> list[Any]:
    """An actor for each replica, on different nodes where there are some.

    Waits until the cluster has room for all, at most `placement.wait_s`. Raises
    EngineEnvironmentError.
    """
    import ray

    described = inspect.signature(ray.runtime_env.RuntimeEnv.__init__).parameters
    _check_names(role, placement.runtime_env, described)
    named = {name: amount for name, amount in one.items() if name not in ("CPU", "GPU")}
    actors: list[Any] = []
    try:
        actor = ray.remote(Replica).options(
            num_cpus=one.get("CPU", 0),
            num_gpus=one.get("GPU", 0),
            resources=named,
            scheduling_strategy="SPREAD",
            max_restarts=0,
            **({"runtime_env": placement.runtime_env} if placement.runtime_env else {}),
        )
        actors.extend(actor.remote(spec, stall_s) for _ in range(placement.replicas))
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        end(actors)  # Ray checks amounts and runtime_env here
        raise ConfigError(
            f"{role}: Ray refuses this placement: {_first_line(error)}",
            hint="its resources and runtime_env are in [placement]",
        ) from None
    try:
        waiting = [each.node.remote() for each in actors]
        deadline = time.monotonic() + placement.wait_s
        while waiting:
            interrupts.check()
            ready, waiting = ray.wait(waiting, timeout=interrupts.POLL_S)
            ray.get(ready)
            if waiting and time.monotonic() > deadline:
                raise EngineEnvironmentError(
                    f"{len(waiting)} of {count(placement.replicas, 'replica')} of the {role} had "
                    "no room on the Ray cluster, or did not start, in "
                    f"{placement.wait_s:g} s; free are "
                    f"{_listed({name: ray.available_resources().get(name, 0) for name in one})}, "
                    f"each needs {_listed(one)}",
                    hint="end what holds them (ray list actors), or raise placement.wait_s; if the "
                    "other engine of this run does, lower the replicas or cpus of both",
                )
    except ray.exceptions.RayError as error:
        end(actors)
        raise EngineEnvironmentError(
            f"a replica of the {role} does not start on its node: {_first_line(error)}",
            hint="check placement.runtime_env"
            if placement.runtime_env
            else "parity-check must be installed on every node, or come with placement.runtime_env",
        ) from None
    except BaseException:
        end(actors)
        raise
    return actors


def _check_names(role: str, given: Mapping[str, Any], known: Iterable[str]) -> None:
    """Refuse misspelled keys of runtime_env, which Ray ignores; plugins have others."""
    for name in given:
        meant = None if name in known else nearest(name, known)
        if meant is not None:
            raise ConfigError(
                f"{role}: placement.runtime_env has no `{name}`", hint=f"did you mean {meant}?"
            )


def ask(actor: Any, method: str, *arguments: Any) -> Any:
    """A short call; None if the actor is gone or does not answer."""
    import ray

    with suppress(ray.exceptions.RayError):
        return ray.get(getattr(actor, method).remote(*arguments), timeout=ANSWER_S)
    return None


def states(actors: Mapping[int, Any]) -> Iterator[tuple[int, State | None]]:
    """The next state of each actor as it comes; None, once, for an actor that is gone.

    The caller removes from `actors` those that it asks nothing more.
    """
    import ray

    asked: dict[Any, int] = {}
    while actors:
        interrupts.check()
        for number in actors.keys() - set(asked.values()):
            asked[actors[number].poll.remote(PROGRESS_S)] = number
        ready, _ = ray.wait(list(asked), timeout=interrupts.POLL_S)
        for each in ready:
            number = asked.pop(each)
            try:
                yield number, ray.get(each)
            except ray.exceptions.RayError:
                yield number, None


def end(actors: Sequence[Any]) -> None:
    """Kill actors, and with them their engines. Safe to call again."""
    import ray

    for each in actors:
        with suppress(Exception):  # it, its node, or the connection is gone
            ray.kill(each)


def needs(placement: Placement, spec: WorkerSpec) -> dict[str, float]:
    """What one replica takes from its node, by Ray's names of resources."""
    devices = float(spec.engine_args.get("tensor_parallel_size") or 1)
    gpus = placement.gpus
    if gpus is None:
        gpus = devices if spec.platform == "cuda" else 0.0
    return {"CPU": placement.cpus, **({"GPU": gpus} if gpus else {}), **placement.resources}


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray sets handlers of its own when it starts a local cluster in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {number: signal.getsignal(number) for number in interrupts.SIGNALS}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _listed(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {amount:,g}" for name, amount in resources.items())


def _first_line(error: Exception) -> str:
    """What an error says, or the end of the traceback in it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    traced = any("Traceback (most recent call last)" in line for line in lines)
    return lines[-1][:300] if traced else " ".join(lines)[:300]
