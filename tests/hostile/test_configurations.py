"""Configurations that are none: one line that names the file, the key and what it takes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.support import call_cli, fake_config
from hostile.support import DEEP, HUGE, USAGE, ask, refusal
from parity_check.config.load import load_config

pytestmark = pytest.mark.timeout(60, func_only=True)

FAKES = "[reference]\nkind = 'fake'\n[candidate]\nkind = 'fake'\n"
TOML = {
    "arrays nested deeply": "x = " + "[" * 2000 + "]" * 2000,
    "tables nested deeply": "x = " + "{a = " * 2000 + "1" + "}" * 2000,
    "a dotted key of 2,000 parts": ".".join(["a"] * 2000) + " = 1",
    "a header of 2,000 parts": f"[{'.'.join(['a'] * 2000)}]",
    "a dotted key of 50,000 parts": ".".join(["a"] * 50_000) + " = 1",
    "a quoted key of 50,000 parts": ".".join(['"a b"'] * 50_000) + " = 1",
    "a spaced key of 50,000 parts": " . ".join(["a"] * 50_000) + " = 1",
    "arrays nested 100 deep": FAKES + "engine_args = {a = " + "[" * 100 + "]" * 100 + "}",
    "an integer of 5,000 digits": FAKES + f"engine_args = {{a = {HUGE}}}",
    "an integer of 4,000 digits": FAKES + f"engine_args = {{a = {HUGE[:4000]}}}",
    "an integer beyond 64 bits": FAKES + f"engine_args = {{a = {2**64}}}",
    "a seed beyond 64 bits": FAKES + f"[workload]\nseed = {2**64}",
    "a hexadecimal number of 5,000 digits": FAKES + f"engine_args = {{a = 0x{'f' * 5000}}}",
    "a key twice": "[reference]\nkind = 'fake'\nkind = 'vllm'",
    "a table twice": "[reference]\n[reference]\n",
    "a date": FAKES + "engine_args = {a = 2026-01-01}",
    "a number that is none": FAKES + "[workload]\ntemperature = nan",
    "an infinite number": FAKES + "[workload]\ntemperature = inf",
    "NUL in a value": FAKES + '[model]\npath = "a\\u0000b"',
    "NUL in an environment value": FAKES + 'env = {A = "a\\u0000b"}',
    "NUL in an environment name": FAKES + 'env = {"A\\u0000" = "b"}',
    "= in an environment name": FAKES + 'env = {"A=B" = "c"}',
    "an environment name that is empty": FAKES + 'env = {"" = "c"}',
    "an environment value that is a number": FAKES + "env = {A = 1}",
    "NUL in a path of prompts": FAKES + '[workload]\nprompts = "a\\u0000b"',
    "a home of nobody": FAKES.replace("'fake'", "'vllm'\npython='~nobody_at_all/bin/python'"),
    "a home of nobody, alone": FAKES.replace("'fake'", "'vllm'\npython='~nobody_at_all'"),
    "a model at nobody's home": FAKES + "[model]\npath = '~nobody_at_all/model'",
    "prompts at nobody's home": FAKES + "[workload]\nprompts = '~nobody_at_all/p.jsonl'",
    "a python of 5,000 characters": FAKES.replace("'fake'", f"'vllm'\npython='/{'a' * 5000}'"),
    "a python with NUL": FAKES.replace("'fake'", "'vllm'\npython=\"/a\\u0000\""),
    "a model of 5,000 characters": FAKES + f"[model]\npath = '{'a' * 5000}'",
    "an update's path that is a list": FAKES + "[weight_sync]\npython_path = []",
    "an update's path that is a number": FAKES + "[weight_sync]\npython_path = 7",
    "weights that are a number": FAKES + "[weight_sync]\nweights = 7",
    "weights of numbers": FAKES + "[weight_sync]\nweights = [7]",
    "a run directory that is empty": FAKES + "[run]\nout = ''",
    "a run directory with NUL": FAKES + '[run]\nout = "a\\u0000"',
    "a table that is a list": "reference = []\ncandidate = []",
    "a table that is a string": "reference = 'a'\ncandidate = 'b'",
    "an engine of engines that is a list": FAKES + "[engines]\na = []",
    "engines that are a list": "engines = [1]\n" + FAKES,
    "a list of tables": "[[reference]]\nkind = 'fake'\n",
    "an escape in a key": FAKES + '"\\u001b[2J" = 1',
    "a workflow command in a key": FAKES + '"\\n::error::x" = 1',
    "a workflow command in a value": FAKES + '[model]\ndtype = "\\n::error::x"',
    "a control character": FAKES + "x = '\x01'",
    "a carriage return alone": FAKES + "\rx = 1",
    "an unknown escape": FAKES + '[model]\npath = "\\q"',
    "a surrogate as an escape": FAKES + '[model]\npath = "\\ud800"',
    "a very long unknown key": FAKES + f"{'a' * 20_000} = 1",
    "a very long value": FAKES + f"[model]\ndtype = '{'a' * 20_000}'",
    "megabytes": "# " + "a" * 3_000_000,
    "a requirement with a marker": FAKES.replace(
        "'fake'", "'vllm'\nrequirement='vllm==0.18.1; python_version<\"3\"'"
    ),
    "a requirement with an epoch": FAKES.replace("'fake'", "'vllm'\nrequirement='vllm==9!0.18.1'"),
    "a requirement with a huge version": FAKES.replace(
        "'fake'", f"'vllm'\nrequirement='vllm=={HUGE}.1'"
    ),
    "a requirement of many parts": FAKES.replace(
        "'fake'", f"'vllm'\nrequirement='vllm=={'.'.join(['1'] * 3000)}'"
    ),
    "a requirement of no version": FAKES.replace("'fake'", "'vllm'\nrequirement='vllm===spam'"),
    "a requirement at an address": FAKES.replace(
        "'fake'", "'vllm'\nrequirement='vllm @ file:///etc/passwd'"
    ),
    "a requirement with a newline": FAKES.replace(
        "'fake'", "'vllm'\nrequirement=\"vllm==0.18.1\\n--index-url x\""
    ),
    "a requirement that is an option": FAKES.replace(
        "'fake'", "'vllm'\nrequirement='--index-url=x'"
    ),
    "a requirement that is long": FAKES.replace(
        "'fake'", f"'vllm'\nrequirement='vllm==0.18.1+{'a' * 3000}'"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TOML)
def test_toml_that_is_no_configuration(tmp_path: Path, case: str) -> None:
    (tmp_path / "parity.toml").write_text(TOML[case], newline="")
    command = ["weight-sync"] if "update" in case or "weights" in case else ["compare"]
    done = ask(*command, "-c", "parity.toml", cwd=tmp_path)
    assert len(done.stderr) < 4_000


FAKE_YAML = "reference: {kind: fake}\ncandidate: {kind: fake}\n"
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)
MERGED = "a: &a {x: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 9)}]}}\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)
YAML = {
    "lists nested deeply": "a: " + "[" * 2000 + "]" * 2000,
    "tables nested deeply": "a: " + "{a: " * 2000 + "1" + "}" * 2000,
    "indented lists nested deeply": "a:\n" + "".join(f"{' ' * n}-\n" for n in range(1, 600)),
    "dashes nested deeply": "- " * 2000 + "a",
    "a list that holds itself": "a: &a [*a]",
    "a table that holds itself": "&a\nreference: *a\ncandidate: *a\n",
    "a key that holds itself": "&a {*a : 1}",
    "a billion laughs": LAUGHS,
    "a billion laughs by merging": MERGED,
    "a quadratic blow-up": f"a: &a {'x' * 20000}\nb: [{', '.join(['*a'] * 20000)}]",
    "a merge of itself": "a: &a\n  <<: *a\n  b: 1\n",
    "a merge of a string": "a:\n  <<: text\n",
    "a key twice": FAKE_YAML + "model: {dtype: float16, dtype: float32}\n",
    "a table twice": FAKE_YAML + "reference: {kind: fake}\n",
    "a quoted key twice": "reference: {kind: fake, 'kind': vllm}\ncandidate: {kind: fake}\n",
    "an unknown alias": "a: *b",
    "an anchor twice": "a: &a 1\nb: &a 2\nc: *a\n",
    "python objects": "a: !!python/object/apply:os.system [true]",
    "a python name": "a: !!python/name:os.system",
    "an unknown tag": "a: !spam b",
    "bytes": FAKE_YAML + "model: {path: !!binary aGk=}\n",
    "bytes that are none": FAKE_YAML + "model: {path: !!binary '***'}\n",
    "a set": "reference: !!set {a, b}\ncandidate: {kind: fake}\n",
    "pairs": "reference: !!pairs [a: b, a: c]\ncandidate: {kind: fake}\n",
    "an ordered map": "reference: !!omap [kind: fake]\ncandidate: {kind: fake}\n",
    "an integer of 5,000 digits": FAKE_YAML + f"workload: {{seed: {HUGE}}}\n",
    "an integer that is none": FAKE_YAML + "workload: {seed: !!int spam}\n",
    "a number by sixties": FAKE_YAML + "workload: {seed: 1:2:3:4:5:6:7:8:9:10:11:12:13:14}\n",
    "a float that is none": FAKE_YAML + "workload: {temperature: !!float spam}\n",
    "a date that is none": FAKE_YAML + "run: {out: 2026-99-99}\n",
    "a date": FAKE_YAML + "run: {out: 2026-01-01}\n",
    "a key that is a number": FAKE_YAML + "1: a\n",
    "a key that is null": FAKE_YAML + "~: a\n",
    "a key that is a list": "? [a, b]\n: c\n",
    "a key that is a table": "? {a: b}\n: c\n",
    "a key that is a boolean": FAKE_YAML + "on: a\n",
    "NUL": FAKE_YAML + 'model: {path: "a\\0b"}\n',
    "a lone surrogate": FAKE_YAML + 'model: {path: "\\ud800"}\n',
    "a control character": FAKE_YAML + "model: {path: '\x01'}\n",
    "an escape beyond Unicode": FAKE_YAML + 'model: {path: "\\U00110000"}\n',
    "two documents": FAKE_YAML + "---\n" + FAKE_YAML,
    "a list": "- a\n",
    "a string": "text",
    "null": "~",
    "nothing": "",
    "a tab": "a:\n\t- b\n",
    "a directive": "%YAML 9.9\n---\na: b\n",
    "megabytes": "# " + "a" * 3_000_000,
    "many flow brackets": "a: " + "[" * 200_000,
    "many questions": "? " * 50_000,
}


@pytest.mark.parametrize("suffix", ["yaml", "yml"])
@pytest.mark.parametrize("case", YAML)
def test_yaml_that_is_no_configuration(tmp_path: Path, case: str, suffix: str) -> None:
    (tmp_path / f"parity.{suffix}").write_text(YAML[case])
    done = ask("compare", "-c", f"parity.{suffix}", cwd=tmp_path)
    assert f"parity.{suffix}" in done.stderr
    assert len(done.stderr) < 4_000


def test_an_anchor_that_is_used_twice_is_no_bomb(tmp_path: Path) -> None:
    (tmp_path / "parity.yaml").write_text("reference: &a {kind: fake}\ncandidate: {<<: *a}\n")
    done = call_cli("compare", "-c", "parity.yaml", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


SETS = {
    "a key of 5,000 parts": ".".join(["a"] * 5000) + "=1",
    "a value nested deeply": "reference.engine_args.a=" + "[" * 5000 + "]" * 5000,
    "tables nested deeply": "reference.engine_args.a=" + "{a=" * 5000,
    "an integer of 5,000 digits": f"workload.seed={HUGE}",
    "an integer beyond 64 bits": f"workload.seed={2**63}",
    "NUL": "model.path=a\0b",
    "not UTF-8": "model.path=a\udcff",
    "a key that is not UTF-8": "mod\udcffel.path=a",
    "no key": "=1",
    "no value": "workload.seed=",
    "no parts": "...=1",
    "an empty argument": "",
    "an escape": "model.dtype=\x1b[2J",
    "a newline": "model.dtype='a\n::error::x'",
    "= in an environment name": "reference.env={'A=B'='c'}",
    "a very long value": "model.dtype=" + "a" * 100_000,
    "a directory that is empty": "run.out=''",
    "a timeout that is endless": "run.stall_timeout_s=inf",
    "a timeout beyond the clock": "run.stall_timeout_s=1e300",
    "a huge number of prompts": f"workload.num_prompts={10**30}",
    "a top_k beyond 32 bits": f"workload.top_k={10**12}",
    "a name that is deep": "engines.a.b.c.d=1",
}


@pytest.mark.parametrize("case", SETS)
def test_a_key_that_is_set_wrong(tmp_path: Path, case: str) -> None:
    fake_config(tmp_path)
    done = ask("compare", "-c", "parity.toml", "--set", SETS[case], cwd=tmp_path)
    assert len(done.stderr) < 4_000


@pytest.mark.parametrize("kind", ["fifo", "directory", "device", "loop", "dangling", "beneath"])
@pytest.mark.parametrize("name", ["parity.toml", "parity.yaml"])
def test_a_configuration_that_is_no_file(tmp_path: Path, kind: str, name: str) -> None:
    path = tmp_path / name
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "beneath":
        (tmp_path / "file").write_text("")
        name = f"file/{name}"
    else:
        path.symlink_to({"device": "/dev/zero", "loop": name, "dangling": "nowhere"}[kind])
    assert name in ask("compare", "-c", name, cwd=tmp_path).stderr


@pytest.mark.parametrize("command", ["compare", "doctor", "record", "weight-sync", "ablate"])
@pytest.mark.parametrize(
    "name", ["", "a" * 300, "b/" * 2500, "nul\0byte", "\udcff.toml", "~nobody/a.toml"],
    ids=lambda value: ascii(value)[:30],
)  # fmt: skip
def test_a_configuration_of_an_impossible_name(tmp_path: Path, command: str, name: str) -> None:
    more = ["--engine", "reference", "-o", "t.parquet"] if command == "record" else []
    ask(command, "-c", name, *more, cwd=tmp_path)


@pytest.mark.parametrize("made", ["missing", "empty", "a file", "a config that is deep", "fifo"])
@pytest.mark.parametrize("command", ["report", "ablate"])
def test_a_run_that_is_none(tmp_path: Path, command: str, made: str) -> None:
    run = tmp_path / "run"
    if made == "a file":
        run.write_text("")
    elif made != "missing":
        run.mkdir()
    if made == "a config that is deep":
        (run / "config.toml").write_text(TOML["arrays nested deeply"])
    if made == "fifo":
        os.mkfifo(run / "config.toml")
    ask(command, "run", cwd=tmp_path)


MODELS = {
    "deep": "[" * DEEP,
    "a list": "[]",
    "null": "null",
    "huge numbers": f'{{"vocab_size": {HUGE}}}',
    "a rope that is a string": '{"rope_theta": "x"}',
    "a rope that is huge": '{"rope_theta": 1' + "0" * 400 + "}",
    "a rope that is a list": '{"rope_parameters": {"rope_theta": []}}',
    "a text that is a list": '{"text_config": []}',
    "not UTF-8": b"\xff",
    "a vocabulary that is a string": '{"vocab_size": "x"}',
    "architectures of numbers": '{"architectures": [1]}',
    "architectures that are a number": '{"architectures": 1}',
}


@pytest.mark.parametrize("command", ["compare", "doctor"])
@pytest.mark.parametrize("case", MODELS)
def test_a_model_that_is_described_wrong(tmp_path: Path, case: str, command: str) -> None:
    (tmp_path / "model").mkdir()
    text = MODELS[case]
    raw = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "model" / "config.json").write_bytes(raw)
    fake_config(tmp_path, model={"path": "model"})
    done = call_cli(command, "-c", "parity.toml", cwd=tmp_path)
    assert "Traceback" not in done.stderr
    assert done.returncode == USAGE, done.stderr
    assert "config.json" in done.stderr


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.dates() | st.binary(max_size=3)
    | st.text(st.characters(exclude_categories=()), max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
KEYS = st.sampled_from(
    ["model", "reference", "candidate", "engines", "workload", "run", "weight_sync", "gates",
     "objective", "stats", "kind", "python", "env", "engine_args", "settings", "path", "prompts",
     "out", "weights", "python_path", "endpoint", "transformers", "temperature", "seed"]
)  # fmt: skip
TREES = st.dictionaries(KEYS, st.dictionaries(KEYS, VALUES, max_size=4) | VALUES, max_size=5)


@settings(
    max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], print_blob=True
)
@given(tree=TREES)
def test_any_tree_is_a_configuration_or_refused(tmp_path: Path, tree: dict[str, Any]) -> None:
    path = tmp_path / "parity.yaml"
    fakes = {"reference": {"kind": "fake"}, "candidate": {"kind": "fake"}}
    path.write_text(yaml.safe_dump({**fakes, **tree}, allow_unicode=False))
    assert (refusal(lambda: load_config(path)) or "parity.yaml: ").startswith("parity.yaml: ")
