"""An engine of several replicas: one engine to everything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from parity_check.config.engines import Placement, Settings
from parity_check.engines.base import Capabilities, Progress
from parity_check.engines.client import WorkerSpec
from parity_check.engines.placement import cluster
from parity_check.engines.placement.dealing import Request, deal
from parity_check.engines.placement.replica import Failure, Finished
from parity_check.engines.replies import Sampled, Scored
from parity_check.errors import ConfigError, EngineError
from parity_check.files import write_text
from parity_check.traces.engine import EngineDescription, Replicas

LOST = ("crashed", "hung")
"""Failures of a replica's engine after which another replica gets its requests."""


def check_one_cluster(placements: Mapping[str, Placement | None]) -> None:
    """A process is in one Ray cluster; `placements` are of the engines that it starts, by role.

    Raises ConfigError.
    """
    placed = {role: each.address for role, each in placements.items() if each is not None}
    if len(set(placed.values())) > 1:
        stated = ", ".join(
            f"{role}.placement.address {'is left out' if address is None else f'= {address}'}"
            for role, address in placed.items()
        )
        raise ConfigError(f"all engines are placed on one Ray cluster, but {stated}")


@dataclass(frozen=True, slots=True)
class PlacedSpec:
    """A worker engine and where its replicas run."""

    worker: WorkerSpec
    placement: Placement
    can: Capabilities

    @property
    def role(self) -> str:
        return self.worker.role

    @property
    def label(self) -> str:
        return self.worker.label

    @property
    def settings(self) -> Settings:
        return self.worker.settings

    @property
    def repeats_with(self) -> Mapping[str, int]:
        return self.worker.repeats_with

    @property
    def pauses(self) -> None:
        return None

    @property
    def devices(self) -> frozenset[str]:
        """None of this machine: Ray gives each replica its own."""
        return frozenset()

    def memory_share(self) -> float:
        return 0.0

    def claims(self) -> tuple[()]:
        return ()

    def start(self, work: Path, log: Path, stall_timeout_s: float, progress: Progress) -> Placed:
        """Start the actors; `load` loads the engines. Raises EngineError."""
        return Placed(self, log, stall_timeout_s, progress)


def placed(worker: WorkerSpec, placement: Placement | None) -> WorkerSpec | PlacedSpec:
    """Where an engine runs: on this machine, or as replicas on a cluster."""
    return worker if placement is None else PlacedSpec(worker, placement, on_a_cluster(worker.can))


def on_a_cluster(can: Capabilities) -> Capabilities:
    """Replicas sample and score; updates and probes are of one engine."""
    return replace(can, noun=f"{can.noun} on a cluster", updates_weights=False, shows_modules=False)


class Placed:
    """The replicas. A lost one's requests go to the others, at most `placement.losses` times."""

    def __init__(
        self, spec: PlacedSpec, log: Path, stall_timeout_s: float, progress: Progress
    ) -> None:
        self.spec, self._log, self._progress = spec, log, progress
        one = cluster.needs(spec.placement, spec.worker)
        cluster.connect(spec.placement)
        cluster.check_resources(spec.role, spec.placement, one)
        self._actors: dict[int, Any] = dict(
            enumerate(
                cluster.start(spec.role, spec.placement, one, spec.worker, stall_timeout_s), 1
            )
        )
        self._nodes: dict[int, str] = {
            number: cluster.ask(each, "node") or "a node that is gone"
            for number, each in self._actors.items()
        }
        self._first: dict[str, int] = {}
        """The replica that ran a sample first, by its id."""

    # --- operations -------------------------------------------------------------------------

    def load(self) -> EngineDescription:
        """Load all replicas, and check that they are the same engine. Raises EngineError."""
        found = self._all("load", dict.fromkeys(self._actors, ((), {})))
        if len(found) < len(self._nodes):
            raise self._error(f"lost a replica while it loaded: {self._lost_nodes()}", "crashed")
        first, *others = found
        for each in others:
            self._check_same(first, found[first], each, found[each])
        nodes = tuple(sorted(set(self._nodes.values())))
        one: EngineDescription = found[first]
        self.description = replace(one, replicas=Replicas(len(found), nodes, ()))
        return self.description

    def tokenize(self, prompts: Sequence[Mapping[str, Any]]) -> list[list[int]]:
        tokenized: list[list[int]] = self._one("tokenize", list(prompts))
        return tokenized

    def decode(self, ids: Sequence[int]) -> list[str]:
        texts: list[str] = self._one("decode", list(ids))
        return texts

    def generate(
        self, requests: Sequence[Mapping[str, Any]], *, max_tokens: int, **parameters: Any
    ) -> list[Sampled]:
        named = {"max_tokens": max_tokens, **parameters}
        for request in requests:  # what was sampled before has other tokens
            self._first.pop(request["sample_id"], None)
        return self._dealt("generate", (), requests, max_tokens, named)

    def score(
        self, op: str, requests: Sequence[Mapping[str, Any]], **parameters: Any
    ) -> list[Scored]:
        return self._dealt("score", (op,), requests, 0, parameters)

    def forget(self) -> None:
        self._all("forget", dict.fromkeys(self._actors, ((), {})))

    def close(self) -> None:
        """Keep the logs, end the engines, then the actors."""
        for number, actor in self._actors.items():
            self._keep_log(number, actor)
            cluster.ask(actor, "close")
        self.kill()

    def kill(self) -> None:
        """Kill all actors. Safe to call again."""
        cluster.end(list(self._actors.values()))

    # --- dealing ----------------------------------------------------------------------------

    def _dealt(
        self,
        operation: str,
        leading: tuple[Any, ...],
        requests: Sequence[Request],
        new_tokens: int,
        named: Mapping[str, Any],
    ) -> list[Any]:
        """Deal requests, and deal those of lost replicas again; rows in the order of requests."""
        rows: dict[str, Any] = {}
        waiting = list(requests)
        while waiting:
            hands = deal(waiting, list(self._actors), new_tokens, self._first)
            found = self._all(
                operation,
                {number: ((*leading, hand), named) for number, hand in hands.items()},
                sum(map(len, hands.values())),
            )
            for number, answers in found.items():
                for row in answers:
                    rows[row.sample_id] = row
                    self._first.setdefault(row.sample_id, number)
            waiting = [each for each in waiting if each["sample_id"] not in rows]
            if waiting:
                self._note_loss(operation, set(hands) - set(found), len(waiting))
        return [rows[request["sample_id"]] for request in requests]

    def _note_loss(self, operation: str, numbers: set[int], requests: int) -> None:
        nodes = ", ".join(f"replica {each} on {self._nodes[each]}" for each in sorted(numbers))
        known = self.description.replicas
        assert known is not None
        lost = (*known.lost, f"{nodes} during {operation}: {requests} requests dealt again")
        if len(lost) > self.spec.placement.losses or not self._actors:
            raise self._error(f"lost {nodes} during {operation}", "crashed", "; ".join(lost))
        self.description = replace(self.description, replicas=replace(known, lost=lost))

    def _one(self, operation: str, argument: Any) -> Any:
        """An operation whose answer is the same on every replica, on the first that is there."""
        while self._actors:
            number = min(self._actors)
            if found := self._all(operation, {number: ((argument,), {})}):
                return found[number]
        raise self._error(f"lost all replicas during {operation}", "crashed")

    def _all(
        self,
        operation: str,
        calls: Mapping[int, tuple[tuple[Any, ...], Mapping[str, Any]]],
        total: int | None = None,
    ) -> dict[int, Any]:
        """{replica: answer} of those that were not lost. Raises the first failure."""
        running = {number: self._actors[number] for number in calls}
        for number, (arguments, named) in calls.items():
            running[number].submit.remote(operation, arguments, named)
        found: dict[int, Any] = {}
        done, tokens = dict.fromkeys(running, 0), dict.fromkeys(running, 0)
        for number, state in cluster.states(running):
            if isinstance(state, Finished):
                found[number] = state.result
                del running[number]
            elif state is None or (isinstance(state, Failure) and state.kind in LOST):
                actor = self._actors.pop(number)
                del running[number]
                self._keep_log(number, actor)
                cluster.end([actor])
                if isinstance(state, Failure) and not self._actors:
                    raise state.error(self._where(number), self._path(number))
            elif isinstance(state, Failure):
                self._keep_log(number, self._actors[number])
                raise state.error(self._where(number), self._path(number))
            else:
                done[number] = max(done[number], state.done)
                tokens[number] = max(tokens[number], state.tokens)
                self._progress(operation, sum(done.values()), total, sum(tokens.values()))
        return found

    # --- agreement and failures -------------------------------------------------------------

    def _check_same(
        self, first: int, one: EngineDescription, second: int, other: EngineDescription
    ) -> None:
        """All replicas are the same engine, of the same weights, on the same kind of device."""
        ours, theirs = one.stated(), other.stated()
        for name in ("version", "family", "packages", "device", "config", "model"):
            if ours.get(name) != theirs.get(name):
                raise self._error(
                    f"has replicas that differ in {name}: {_difference(ours[name], theirs[name])} "
                    f"({self._where(first)}, {self._where(second)})",
                    "replicas_differ",
                )
        for name, setting in one.settings.items():
            if setting.in_force != other.settings[name].in_force:
                raise self._error(
                    f"has replicas that differ in {name}: {setting.in_force} "
                    f"({self._where(first)}), {other.settings[name].in_force} "
                    f"({self._where(second)})",
                    "replicas_differ",
                )

    def _keep_log(self, number: int, actor: Any) -> None:
        text = cluster.ask(actor, "log")
        if text is not None:
            write_text(self._path(number), text)

    def _path(self, number: int) -> Path:
        return self._log.with_name(f"{self.spec.role}-replica-{number}.log")

    def _where(self, number: int) -> str:
        return f"replica {number} on {self._nodes[number]}"

    def _lost_nodes(self) -> str:
        return ", ".join(self._where(n) for n in self._nodes if n not in self._actors)

    def _error(self, what: str, kind: str, hint: str | None = None) -> EngineError:
        message = f"the {self.spec.role} engine ({self.spec.label}) {what}"
        return EngineError(message, kind=kind, hint=hint)


def _difference(one: Any, other: Any) -> str:
    """The first key of two objects that differs, with both values."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for name in {**one, **other}:
            if one.get(name) != other.get(name):
                return f"{name}: {_difference(one.get(name), other.get(name))}"
    return f"{one} and {other}"
