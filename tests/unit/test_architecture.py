"""The shape of the code: who may import whom, and what starting up may cost."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "parity_check"
WORKER = SOURCE / "engines" / "worker"
PURE = (
    *("metrics", "accumulator", "estimates", "measurement", "stats", "objectives"),
    *("hygiene", "gates", "pairing", "worst", "batch", "estimator", "breakdowns"),
    *("pictures/spread", "pictures/hexagons", "pictures/gaps", "pictures/samples"),
    *("pictures/collect", "ablation/plan", "weight_sync/timeline"),
    *("weight_sync/checks", "weight_sync/distance", "weight_sync/observed"),
    *("decomposition", "practices"),
)
COMPOSERS = (
    *("cli", "app", "doctor", "session", "illustration", "ablation.command", "ablation.steps"),
    *("weight_sync.command", "weight_sync.scenario", "importing", "matrix"),
)
FORBIDDEN = {
    "pure": ("engines", "report", "console", "run", "rollouts", "analysis", *COMPOSERS),
    "engines": ("report", "analysis", "gates", "metrics", "console", "run", *COMPOSERS),
    "importers": ("engines", "report", "analysis", "console", "run", "rollouts", *COMPOSERS),
    "report": ("engines", "analysis", "console", "run", "rollouts", *COMPOSERS),
    "analysis": ("engines", "console", "run", "rollouts", *COMPOSERS),
    "ablation/analysis": ("engines", "console", "run", "rollouts", *COMPOSERS),
    "ablation/files": ("engines", "report", "console", "run", "rollouts", *COMPOSERS),
    "examination": ("engines", "console", "run", "rollouts", "analysis", *COMPOSERS),
    "matrix_analysis": ("engines", "console", "run", "rollouts", *COMPOSERS),
    "trace": ("engines", "report", "analysis", "console", "run", "rollouts", *COMPOSERS),
}
LARGEST_MODULE = 400


def modules(below: Path = SOURCE) -> list[Path]:
    return sorted(path for path in below.rglob("*.py") if WORKER not in path.parents)


def imported(path: Path) -> Iterator[str]:
    """The modules of parity_check that a module imports, anywhere in it, without the prefix."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "parity_check":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("parity_check."):
            module = (node.module or "").removeprefix("parity_check.")
            yield from (module, *(f"{module}.{alias.name}" for alias in node.names))
        elif isinstance(node, ast.Import):
            names = (alias.name for alias in node.names)
            yield from (n.removeprefix("parity_check.") for n in names if "parity_check." in n)


def breaches(paths: list[Path], forbidden: tuple[str, ...]) -> list[str]:
    return [
        f"{path.relative_to(SOURCE)} imports {name}"
        for path in paths
        for name in imported(path)
        if any(name == each or name.startswith(f"{each}.") for each in forbidden)
    ]


PURE_PATHS = [
    *(SOURCE / f"{name}.py" for name in PURE),
    *sorted((SOURCE / "diagnosis").glob("[a-z]*.py")),
]


def test_the_pure_modules_know_no_engine_and_no_terminal() -> None:
    assert breaches(PURE_PATHS, FORBIDDEN["pure"]) == []


@pytest.mark.parametrize("package", ["engines", "importers", "report"])
def test_packages_know_nothing_of_what_is_above_them(package: str) -> None:
    assert breaches(modules(SOURCE / package), FORBIDDEN[package]) == []


@pytest.mark.parametrize(
    "module",
    [
        *("analysis", "examination", "ablation/analysis", "ablation/files", "matrix_analysis"),
        "trace",
    ],
)
def test_modules_know_nothing_of_what_is_above_them(module: str) -> None:
    assert breaches([SOURCE / f"{module}.py"], FORBIDDEN[module]) == []


def test_the_command_line_is_at_the_top() -> None:
    assert breaches([p for p in modules() if p.name != "__main__.py"], ("cli",)) == []
    others = [path for path in modules() if path.stem not in ("cli", "__main__")]
    assert breaches(others, ("app", "doctor", "ablation.command", "weight_sync.command")) == []


def loaded_by(*names: str) -> set[str]:
    """The modules that a fresh interpreter holds after importing these."""
    program = f"import sys, {', '.join(names)}; print(*sys.modules)"
    return set(subprocess.check_output([sys.executable, "-c", program], text=True).split())


def test_help_is_instant() -> None:
    heavy = {
        "torch",
        "vllm",
        "transformers",
        "numpy",
        "pyarrow",
        "pandas",
        "scipy",
        "matplotlib",
        "jinja2",
        "httpx",
    }
    assert not heavy & loaded_by("parity_check.cli")


def test_http_is_loaded_for_an_endpoint_alone() -> None:
    assert "httpx" not in loaded_by("parity_check.app")


def test_the_pure_modules_load_neither_terminal_nor_files() -> None:
    parts = (path.relative_to(SOURCE).with_suffix("").parts for path in PURE_PATHS)
    names = [".".join(("parity_check", *each)) for each in parts]
    loaded = loaded_by(*names)
    assert not {"rich", "typer", "pyarrow", "pandas", "torch"} & loaded
    assert not [name for name in loaded if name.startswith("parity_check.engines")]


def test_no_module_is_long() -> None:
    sizes = {path: len(path.read_text().splitlines()) for path in SOURCE.rglob("*.py")}
    assert {str(path): size for path, size in sizes.items() if size > LARGEST_MODULE} == {}


@pytest.mark.parametrize("path", sorted(WORKER.rglob("*.py")), ids=lambda path: path.name)
def test_the_worker_runs_in_any_interpreter(path: Path) -> None:
    """It must be understood by Python 3.9, and use nothing of parity_check."""
    source = path.read_text(encoding="utf-8")
    ast.parse(source, feature_version=(3, 9))
    assert list(imported(path)) == []
