"""The run directory of a case, as `compare` would write it."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tomli_w

from faults.cases import CLEAN, STATIONS, Case, Side
from faults.fleet import Fleet
from parity_check.config.load import dump_config, parse_config
from parity_check.config.models import OTHER, ROLES, SHAPING, Config, Role, Workload
from parity_check.engines.client import WorkerEngine
from parity_check.recording import requests
from parity_check.traces import provenance
from parity_check.traces.engine import EngineDescription
from parity_check.traces.prompts import Prompt, read_prompts
from parity_check.traces.run_files import repeat_name, replayed_name, sampled_name
from parity_check.traces.trace import Sample, Trace, TraceHeader, write_trace

BOS = 0
WORKLOAD = {"samples_per_prompt": 1, "max_tokens": 40, "temperature": 1.0, "top_logprobs": 5}


class Recorder:
    """Records the run directories of cases."""

    def __init__(self, fleet: Fleet, out: Path) -> None:
        self.fleet, self.out = fleet, out
        # Even and odd seeds use different halves of the bundled prompts.
        self.prompts = read_prompts("bundled:prompts")[fleet.seed % 2 : 96 : 2]

    def config(self, case: Case) -> Config:
        """The configuration of this pair, as a user would write it."""
        return parse_config(
            {
                "model": {"path": "bundled:tiny"},
                "reference": self.fleet.engine_table(STATIONS[case.reference.station]),
                "candidate": self.fleet.engine_table(STATIONS[case.candidate.station]),
                "workload": {**WORKLOAD, "seed": self.fleet.seed, **case.workload},
                "run": {"out": str(self.out)},
            },
            case.name,
        )

    def path(self, case: Case) -> Path:
        """The case's run directory; complete if it exists."""
        return self.out / case.name

    def make(self, case: Case) -> None:
        """Record the case, or edit the recorded traces of its engines without a fault."""
        partial = self.path(case).with_name(case.name + ".part")
        shutil.rmtree(partial, ignore_errors=True)
        recorded = next((each for each in CLEAN if each == case.without_edits(each)), None)
        if case.edited and recorded is not None:
            if not self.path(recorded).is_dir():
                self.make(recorded)
            edit_run(case, self.path(recorded), partial)
            partial.replace(self.path(case))
            return
        sides = (case.reference, case.candidate)
        engines = self.fleet.engines([side.station for side in sides])
        checkpoint = self.fleet.checkpoint(STATIONS[case.reference.station].checkpoint)
        for side, engine in zip(sides, engines, strict=True):
            if side.order:
                self._give_order(side, engine)
        recording = Recording(
            case,
            self.config(case),
            dict(zip(ROLES, engines, strict=True)),
            # A trainer with different weights in memory would report the same model.
            {**provenance.model_fingerprint(str(checkpoint), None), "name": "tiny"},
            self.prompts,
            partial,
        )
        recording.make()
        for side in sides:
            if "reload" in side.order:
                self.fleet.end(side.station)
            elif side.order:
                self.fleet.order_file(side.station).write_text("{}", encoding="utf-8")
        partial.replace(self.path(case))

    def _give_order(self, side: Side, engine: WorkerEngine) -> None:
        order = dict(side.order)
        if "reload" in order:
            order["reload"] = str(self.fleet.checkpoint(order["reload"]))
            # Fill the cache with prefixes of the old weights before loading the new ones.
            once = Workload(samples_per_prompt=1, max_tokens=1)
            ids = requests.tokenize(engine, self.prompts)
            requests.generate(engine, self.prompts, ids, once)
        self.fleet.order_file(side.station).write_text(json.dumps(order), encoding="utf-8")


def edit_run(case: Case, recorded: Path, directory: Path) -> None:
    """A copy of a recorded run with the edits of a case in its traces."""
    directory.mkdir(parents=True)
    shutil.copy(recorded / "config.toml", directory)
    sides: dict[str, Side] = {"reference": case.reference, "candidate": case.candidate}
    for path in sorted(recorded.glob("*.parquet")):
        trace = Trace(path)
        edit = sides[trace.header.evaluated_by].edit
        # The same error in an A/A run: it is no noise of the engine.
        samples = [
            edit(each, random.Random(each.sample_id)) if edit else each for each in trace.samples()
        ]
        header = replace(trace.header, run_id=case.name)
        write_trace(directory / path.name, samples, header, trace.vocabulary())


class Recording:
    """Records one case: what `compare` does, with the faults of each side."""

    def __init__(
        self,
        case: Case,
        config: Config,
        engines: Mapping[Role, WorkerEngine],
        model: Mapping[str, Any],
        prompts: Sequence[Prompt],
        directory: Path,
    ) -> None:
        self.case, self.config, self.engines, self.model = case, config, engines, dict(model)
        self.prompts, self.directory = prompts, directory
        self.sides: dict[Role, Side] = {"reference": case.reference, "candidate": case.candidate}
        self.created = datetime.now(UTC).isoformat(timespec="seconds")

    def make(self) -> None:
        """Create the directory, record and replay."""
        self.directory.mkdir(parents=True)
        config = tomli_w.dumps(dump_config(self.config))
        (self.directory / "config.toml").write_text(config, encoding="utf-8")
        ids = requests.tokenize(self.engines["reference"], self.prompts)
        if self.case.doubled:
            ids = [[BOS, *tokens] for tokens in ids]
        samplers = self.config.workload.samplers()
        self._side_by_side({role: self._sample_with(ids) for role in samplers})
        self._side_by_side({OTHER[role]: self._evaluate for role in samplers})

    def _side_by_side(self, jobs: Mapping[Role, Callable[[Role], None]]) -> None:
        if len(set(map(id, self.engines.values()))) < len(self.engines):
            for role, job in jobs.items():
                job(role)
            return
        with ThreadPoolExecutor(len(jobs)) as threads:
            for done in [threads.submit(job, role) for role, job in jobs.items()]:
                done.result()

    # --- engines ----------------------------------------------------------------------------------

    def _sample_with(self, ids: Sequence[list[int]]) -> Callable[[Role], None]:
        def sample(role: Role) -> None:
            side = self.sides[role]
            workload = self.config.workload.model_copy(update=dict(side.passed))
            drawn = requests.generate(
                self.engines[role], self.prompts, [seen(side, tokens) for tokens in ids], workload
            )
            prompt_ids = dict(zip((prompt.prompt_id for prompt in self.prompts), ids, strict=True))
            drawn = [replace(each, prompt_token_ids=prompt_ids[each.prompt_id]) for each in drawn]
            if side.returned:
                drawn = self._scored(role, drawn, None)
            self._write(sampled_name(role), self._edited(role, drawn), role, role)
            self._repeat(role, drawn, role)

        return sample

    def _evaluate(self, role: Role) -> None:
        source = Trace(self.directory / sampled_name(OTHER[role]))
        scored = self._scored(role, list(source.samples()), None)
        digest = source.header.token_digest
        name = replayed_name(OTHER[role])
        self._write(name, self._edited(role, scored), OTHER[role], role, digest)
        if role not in self.config.workload.samplers():
            self._repeat(role, scored, OTHER[role])

    def _repeat(self, role: Role, samples: Sequence[Sample], sampled_by: Role) -> None:
        """Record an A/A run on the unedited samples."""
        source = sampled_name(role) if sampled_by == role else replayed_name(sampled_by)
        digest = Trace(self.directory / source).header.token_digest
        again = self._scored(role, samples, 1)
        self._write(repeat_name(role, 1), self._edited(role, again), sampled_by, role, digest)

    def _scored(self, role: Role, samples: Sequence[Sample], shuffle: int | None) -> list[Sample]:
        side, engine = self.sides[role], self.engines[role]
        sampling = {**self.config.workload.sampling(), **side.passed, **side.returned}
        given = [
            replace(each, prompt_token_ids=seen(side, list(each.prompt_token_ids)))
            for each in samples
        ]
        if side.as_text:
            given = self._retokenised(engine, given)
        top = self.config.workload.top_logprobs
        scored = requests.score(engine, "replay", given, sampling, top, shuffle)
        engine.forget()
        return [fit(original, found) for original, found in zip(samples, scored, strict=True)]

    def _retokenised(self, engine: WorkerEngine, samples: Sequence[Sample]) -> list[Sample]:
        rows = engine.tokenize([{"prompt_id": s.sample_id, "text": s.text} for s in samples])
        return [
            replace(each, completion_token_ids=tokens[1:] if tokens[0] == BOS else tokens)
            for each, tokens in zip(samples, rows, strict=True)
        ]

    def _edited(self, role: Role, samples: Sequence[Sample]) -> list[Sample]:
        edit, draw = self.sides[role].edit, random.Random(self.config.workload.seed)
        return [edit(each, draw) if edit else each for each in samples]

    # --- traces ---------------------------------------------------------------------------------

    def _write(
        self,
        name: str,
        samples: Sequence[Sample],
        sampled_by: Role,
        evaluated_by: Role,
        replayed_from: str | None = None,
    ) -> None:
        engine = self.engines[evaluated_by]
        header = self._header(engine, sampled_by, evaluated_by, replayed_from)
        vocabulary = requests.vocabulary(engine, samples)
        write_trace(self.directory / name, samples, header, vocabulary)

    def _header(
        self,
        engine: WorkerEngine,
        sampled_by: Role,
        evaluated_by: Role,
        replayed_from: str | None,
    ) -> TraceHeader:
        workload = self.config.workload
        return TraceHeader(
            run_id=self.case.name,
            created_utc=self.created,
            command="scripts/fault_matrix.py",
            sampled_by=sampled_by,
            evaluated_by=evaluated_by,
            engine=_described(engine, self.sides[evaluated_by]),
            model=self.model,
            sampling={
                **{name: getattr(workload, name) for name in SHAPING},
                "max_tokens": workload.max_tokens,
                "ignore_eos": workload.ignore_eos,
            },
            logprob_path="decode",
            logprob_distribution=engine.description.distribution,
            host=provenance.host_fingerprint(),
            config=dump_config(self.config),
            replayed_from=replayed_from,
        )


def _described(engine: WorkerEngine, side: Side) -> EngineDescription:
    """The engine as it was loaded; weights that a fault replaces later are not those in force."""
    description = engine.description
    if "reload" not in side.order:
        return description
    left = {name: value for name, value in description.model.items() if name != "weights"}
    return replace(description, model=left)


def seen(side: Side, prompt: list[int]) -> list[int]:
    """The prompt that the engine of this side receives."""
    return prompt[1:] if side.single_bos and prompt[:2] == [BOS, BOS] else prompt


def fit(original: Sample, scored: Sample) -> Sample:
    """The original with the scored columns, truncated or zero-padded to its length."""
    missing = len(original.completion_token_ids) - len(scored.logprobs)
    length = len(original.completion_token_ids)
    tops = scored.top_token_ids, scored.top_logprobs
    ids, values = (None if rows is None else [*rows[:length], *[[]] * missing] for rows in tops)
    return replace(
        original,
        logprobs=[*scored.logprobs[:length], *[0.0] * missing],
        top_token_ids=ids,
        top_logprobs=values,
    )
