"""Weights as loaded: equal checksums in every version, and one changed element is found."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from engines.support import VERSIONS, make_spec
from faults import checkpoints
from parity_check.engines.client import WorkerEngine
from parity_check.traces.prompts import ASSETS

CHANGED = "model.layers.1.mlp.down_proj.weight"


def checksums(version: str, checkpoint: Path, directory: Path) -> Mapping[str, str]:
    spec = make_spec(version, env={"VLLM_CPU_KVCACHE_SPACE": "1"})
    spec = replace(spec, engine_args={**spec.engine_args, "model": str(checkpoint)})
    worker = WorkerEngine(spec, directory / "jobs", directory / "log", 300, lambda *_: None)
    try:
        return dict(worker.load().model["weights"])
    finally:
        worker.close()


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    return checksums("0.8.5", ASSETS / "tiny", tmp_path_factory.mktemp("first"))


@pytest.mark.parametrize("version", [version for version in VERSIONS if version != "0.8.5"])
def test_one_checkpoint_has_equal_checksums_in_every_version(
    version: str, first: Mapping[str, str], tmp_path: Path
) -> None:
    assert len(first) > 10
    assert checksums(version, ASSETS / "tiny", tmp_path) == first


def test_one_changed_element_is_found(first: Mapping[str, str], tmp_path: Path) -> None:
    checkpoint = tmp_path / "changed"
    shutil.copytree(ASSETS / "tiny", checkpoint)
    tensors = checkpoints.read_weights(checkpoint / checkpoints.WEIGHTS)
    changed = tensors[CHANGED].copy()
    changed[3, 5] ^= 1
    tensors[CHANGED] = changed
    checkpoints.write_weights(checkpoint / checkpoints.WEIGHTS, tensors)
    found = checksums("0.18.1", checkpoint, tmp_path)
    assert {name for name in first if found[name] != first[name]} == {CHANGED}
