"""parity.toml: what is read is what is stored, and what is wrong is named."""

from __future__ import annotations

import tempfile
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import yaml
from hypothesis import given
from hypothesis import strategies as st

from parity_check.config.load import dump_config, load_config, parse_config
from parity_check.config.models import Config
from parity_check.errors import ConfigError

FAKES: dict[str, Any] = {"reference": {"kind": "fake"}, "candidate": {"kind": "fake"}}

NUMBERS = st.floats(min_value=-1e6, max_value=1e6) | st.integers(-(2**53), 2**53)
PLAIN = st.recursive(
    st.booleans() | NUMBERS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)
ENGINES = st.fixed_dictionaries(
    {},
    optional={
        "family": st.sampled_from(["v0", "v1"]),
        "engine_args": st.dictionaries(st.text(max_size=6), PLAIN, max_size=3),
        "env": st.dictionaries(
            st.text(st.characters(codec="utf-8", exclude_characters="=\0"), min_size=1, max_size=6),
            st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6),
            max_size=2,
        ),
        "settings": st.fixed_dictionaries(
            {},
            optional={
                "logprobs_mode": st.sampled_from(["raw_logprobs", "default"]),
                "enable_prefix_caching": st.sampled_from([True, False, "default"]),
                "lm_head_dtype": st.sampled_from(["model", "float32", "default"]),
            },
        ),
    },
)
TREES = st.fixed_dictionaries(
    {
        "reference": ENGINES.map(lambda engine: {"kind": "fake", **engine}),
        "candidate": ENGINES.map(lambda engine: {"kind": "fake", **engine}),
    },
    optional={
        "workload": st.fixed_dictionaries(
            {},
            optional={
                "num_prompts": st.integers(1, 10**6),
                "temperature": st.floats(0, 10),
                "top_p": st.floats(0, 1, exclude_min=True),
                "top_k": st.sampled_from([-1, 1, 50]),
                "seed": st.integers(0, 2**31),
                "sampled_by": st.sampled_from(["both", "reference", "candidate"]),
            },
        ),
        "gates": st.dictionaries(
            st.sampled_from(["k3_kl", "ess", "tail_fraction"]), st.floats(0, 1, exclude_min=True)
        ),
        "stats": st.just({"confidence": 0.9, "cluster_by": "sample"}),
    },
)


@given(TREES)
def test_a_resolved_config_resolves_to_itself(tree: dict[str, Any]) -> None:
    config = parse_config(tree, "parity.toml")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "config.toml"
        path.write_text(tomli_w.dumps(dump_config(config)), encoding="utf-8")
        again = load_config(path)
    assert again == config
    assert dump_config(again) == dump_config(config)


def test_every_default_is_written_out() -> None:
    dumped = dump_config(parse_config(FAKES, "parity.toml"))
    for table in ("model", "reference", "workload", "objective", "gates", "stats", "run"):
        fields = type(getattr(parse_config(FAKES, "x"), table)).model_fields
        written = {name for name, field in fields.items() if field.default is not None}
        assert written <= set(dumped[table])


def test_yaml_and_toml_say_the_same(tmp_path: Path) -> None:
    tree = {**FAKES, "workload": {"temperature": 0.7, "top_k": 3}}
    (tmp_path / "a.toml").write_text(tomli_w.dumps(tree))
    (tmp_path / "a.yml").write_text(yaml.safe_dump(tree))
    assert load_config(tmp_path / "a.toml") == load_config(tmp_path / "a.yml")


def loaded(tmp_path: Path, *overlay: str) -> Config:
    (tmp_path / "a.toml").write_text(tomli_w.dumps(FAKES))
    return load_config(tmp_path / "a.toml", overlay)


@pytest.mark.parametrize(
    ("item", "value"),
    [
        ("x=1", 1),
        ("x=1.5", 1.5),
        ("x=true", True),
        ("x='1'", "1"),
        ("x=some text", "some text"),
        ("x=a=b", "a=b"),
        ("x=[1, 2]", [1, 2]),
        ("x={y = 2}", {"y": 2}),
        ("x=", ""),
    ],
)
def test_set_takes_toml_values_and_otherwise_text(tmp_path: Path, item: str, value: Any) -> None:
    config = loaded(tmp_path, f"reference.engine_args.{item}")
    assert config.reference.engine_args == {"x": value}


def test_the_last_set_wins(tmp_path: Path) -> None:
    assert loaded(tmp_path, "workload.seed=1", "workload.seed=2").workload.seed == 2


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "p.jsonl").write_text("")
    config = loaded(tmp_path, "model.path=model", "workload.prompts=p.jsonl", "model.dtype=float32")
    assert config.model.path == str(tmp_path / "model")
    assert config.workload.prompts == str(tmp_path / "p.jsonl")


def test_what_is_no_path_beside_the_file_stays_as_it_is(tmp_path: Path) -> None:
    config = loaded(tmp_path, "model.path=org/name", "workload.prompts=bundled:prompts")
    assert config.model.path == "org/name"
    assert config.workload.prompts == "bundled:prompts"


def test_the_link_to_an_interpreter_is_not_followed(tmp_path: Path) -> None:
    """A virtual environment is known by its link: resolved, it would be the base interpreter."""
    (tmp_path / "python").symlink_to("/bin/sh")
    tree = {**FAKES, "reference": {"python": "./python"}}
    (tmp_path / "a.toml").write_text(tomli_w.dumps(tree))
    assert load_config(tmp_path / "a.toml").reference.python == str(tmp_path / "python")


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"modle": {}}, "unknown key `modle` (did you mean `model`?)"),
        ({"zzz": {}}, "unknown key `zzz`"),
        (
            {"stats": {"confidense": 1}},
            "unknown key `stats.confidense` (did you mean `confidence`?",
        ),
        ({"stats": {"confidence": 1}}, "stats.confidence: input should be less than 1 (got 1)"),
        ({"gates": {"k3_kl": "x"}}, "gates.k3_kl: input should be a valid number"),
        ({"gates": {"k3_kl": float("inf")}}, "gates.k3_kl: input should be a finite number"),
        (
            {"workload": {"temperature": float("nan")}},
            "workload.temperature: input should be a",
        ),
        ({"workload": {"top_k": 0}}, "workload: top_k: some versions reject 0; use -1 for off"),
        ({"workload": {"sampled_by": "x"}}, "'both', 'reference' or 'candidate' (got 'x')"),
        ({"reference": 3}, "reference: input should be a valid dictionary"),
        (
            {"reference": {"kind": "vlm"}},
            "parity.toml: reference.kind: input should be 'vllm', 'transformers', 'endpoint' or "
            "'fake' (got 'vlm')",
        ),
        ({"engines": {"t": {"kind": 3}}}, "parity.toml: engines.t.kind: input should be 'vllm', "),
        (
            {"engines": {"t": {"kind": "fake", "engine_arg": {}}}},
            "parity.toml: unknown key `engines.t.engine_arg` (did you mean `engine_args`?)",
        ),
        (
            {"engines": {"t": {"kind": "endpoint", "endpoint": {"model": "m"}}}},
            "parity.toml: [engines.t.endpoint.base_url] is missing",
        ),
        (
            {"engines": {"t": {"kind": "fake", "settings": {"lm_head_dtype": "half"}}}},
            "parity.toml: engines.t.settings.lm_head_dtype: input should be 'model', 'float32' or "
            "'default' (got 'half')",
        ),
        ({"reference": {}}, "reference: set exactly one of `python` and `requirement`"),
        (
            {"reference": {"kind": "fake", "requirement": "vllm==1"}},
            'reference: kind = "fake" takes neither `python` nor `requirement`',
        ),
        (
            {"reference": {"kind": "fake", "settings": {"enable_prefix_caching": "maybe"}}},
            "reference.settings.enable_prefix_caching: input should be a valid boolean, unable to "
            "interpret input, or input should be 'default' (got 'maybe')",
        ),
        (
            {"reference": {"kind": "fake", "engine_args": {"a": {"b": [None]}}}},
            "reference.engine_args: a: {'b': [None]} has no TOML and JSON representation",
        ),
        (
            {"reference": {"kind": "fake", "engine_args": {"a": float("inf")}}},
            "reference.engine_args: a: inf has no TOML and JSON representation",
        ),
    ],
)
def test_what_is_wrong_is_named(tree: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({**FAKES, **tree}, "parity.toml")
    assert caught.value.message.startswith("parity.toml: ")
    assert message in caught.value.message
    assert "\n" not in caught.value.message


def test_a_missing_engine_is_named() -> None:
    with pytest.raises(ConfigError, match=r"p.toml: \[candidate\] is missing"):
        parse_config({"reference": {"kind": "fake"}}, "p.toml")


def test_the_shipped_configurations_are_valid() -> None:
    directory = Path(__file__).parents[2] / "configs"
    paths = sorted(directory.glob("*.toml"))
    assert paths
    for path in paths:
        config = load_config(path)
        assert tomllib.loads(tomli_w.dumps(dump_config(config))) == dump_config(config)


def test_a_variable_that_no_file_can_hold_is_refused() -> None:
    tree = {**FAKES, "candidate": {"kind": "fake", "env": {"A": "\ud800"}}}
    with pytest.raises(ConfigError, match="cannot be an environment variable"):
        parse_config(tree, "parity.toml")


def test_replicas_on_a_cluster_are_counted_from_one() -> None:
    for placement in ({"kind": "ray", "replicas": 0}, {"kind": "slurm"}, {"replicas": 2}):
        tree = {**FAKES, "candidate": {"kind": "fake", "placement": placement}}
        with pytest.raises(ConfigError, match=r"candidate\.placement"):
            parse_config(tree, "parity.toml")
