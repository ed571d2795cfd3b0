"""Where results go: never over a file of the user's, never somewhere impossible."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from conftest import Run
from helpers import dumps
from helpers.support import call_cli, fake_config
from hostile.support import VERDICTS, ask, snapshot

pytestmark = pytest.mark.timeout(60, func_only=True)


@pytest.fixture
def home(drifting_run: Run, tmp_path: Path) -> Path:
    """A directory with a configuration, two traces, prompts, a dump and a finished run."""
    fake_config(tmp_path, workload={"prompts": "p.jsonl"})
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n')
    dumps.write_lines(
        tmp_path / "d.jsonl",
        [{"prompt_ids": [1], "completion_ids": [2], "logprobs": [-0.5],
          "old_per_token_logps": [-0.5]}],
    )  # fmt: skip
    shutil.copy(drifting_run.path / "candidate.parquet", tmp_path / "a.parquet")
    shutil.copy(
        drifting_run.path / "candidate-replayed-by-reference.parquet", tmp_path / "b.parquet"
    )
    shutil.copytree(drifting_run.path, tmp_path / "run")
    (tmp_path / "link.parquet").symlink_to("a.parquet")
    os.link(tmp_path / "a.parquet", tmp_path / "hard.parquet")
    return tmp_path


REPLAY = "replay -c parity.toml --engine reference --trace a.parquet -o "
RECORD = "record -c parity.toml --engine reference -o "
IMPORT = "import trl d.jsonl -o "
PAIR = "compare a.parquet b.parquet --write "
COMPARE = "compare -c parity.toml --write "
OVER = {
    "a replay over its trace": f"{REPLAY}a.parquet",
    "a replay over its trace, by another path": f"{REPLAY}run/../a.parquet",
    "a replay over its trace, by a link": f"{REPLAY}link.parquet",
    "a replay over its trace, by a hard link": f"{REPLAY}hard.parquet",
    "a replay over its configuration": f"{REPLAY}parity.toml",
    "a replay over its prompts": f"{REPLAY}p.jsonl",
    "a record over its configuration": f"{RECORD}parity.toml",
    "a record over its prompts": f"{RECORD}p.jsonl",
    "an import over its dump": f"{IMPORT}d.jsonl",
    "an import over its dump, by another path": f"{IMPORT}./run/../d.jsonl",
    "an import whose trainer's side is the dump": "import trl t-trainer.parquet -o t.parquet",
    "a report over its configuration": f"{COMPARE}json=parity.toml",
    "a report over its prompts": f"{COMPARE}html=p.jsonl",
    "a report over a trace": f"{PAIR}json=a.parquet",
    "a report over the other trace": f"{PAIR}markdown=b.parquet",
    "a report over a trace, by a link": f"{PAIR}json=link.parquet",
    "a report over the run's configuration": "report run --write json=run/config.toml",
    "a report over the run's trace": "report run --write json=run/candidate.parquet",
    "a report over the reference's trace": (
        "compare -c parity.toml --reference-trace a.parquet --write json=a.parquet"
    ),
    "a report over the workload's trace": (
        "compare -c parity.toml --workload-trace a.parquet --write json=a.parquet"
    ),
    "two reports in one file": f"{PAIR}json=x --write html=x",
    "two reports in one file, by another path": f"{PAIR}json=x --write html=run/../x",
    "a weight update's report over its configuration": (
        "weight-sync -c parity.toml --write json=parity.toml"
    ),
    "an ablation's report over its configuration": "ablate -c parity.toml --write json=parity.toml",
}


@pytest.mark.parametrize("case", OVER)
def test_nothing_is_written_over_what_was_given(home: Path, case: str) -> None:
    if "trainer's side" in case:
        (home / "d.jsonl").rename(home / "t-trainer.parquet")
    done = ask(*OVER[case].split(" "), cwd=home)
    assert "starting" not in done.stderr


@pytest.mark.parametrize(
    "command", [f"{REPLAY}x.parquet", f"{RECORD}x.parquet", f"{IMPORT}x.parquet",
                f"{PAIR}json=x.parquet", f"{COMPARE}json=x.parquet",
                "report run --write json=x.parquet"]
)  # fmt: skip
@pytest.mark.parametrize("kind", ["file", "link", "directory"])
def test_a_partial_file_of_the_users_stays(home: Path, command: str, kind: str) -> None:
    part = home / "x.parquet.part"
    if kind == "file":
        part.write_text("mine")
    elif kind == "link":
        part.symlink_to("a.parquet")
    else:
        part.mkdir()
    done = ask(*command.split(" "), cwd=home)
    assert "x.parquet.part" in done.stderr
    assert part.exists()


def test_the_trainers_side_has_a_partial_file_too(home: Path) -> None:
    (home / "x-trainer.parquet.part").write_text("mine")
    ask(*f"{IMPORT}x.parquet".split(" "), cwd=home)


PLACES = {
    "empty": "",
    "here": ".",
    "above": "..",
    "the root": "/",
    "a directory": "run",
    "a directory, with a slash": "run/",
    "a device": "/dev/null",
    "a full disk": "/dev/full",
    "below a file": "d.jsonl/t.parquet",
    "below a device": "/dev/null/t.parquet",
    "too long": "a" * 252,
    "far too long": "a" * 300,
    "a long path": "b/" * 2500 + "t",
    "NUL": "a\0b",
    "not UTF-8": "\udcff.parquet",
    "an escape": "\x1b[2J.parquet",
    "a newline": "a\n::error::b",
    "a FIFO": "fifo",
    "below a system's directory": "/proc/x/t.parquet",
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("command", [REPLAY, RECORD, IMPORT, f"{PAIR}json=", f"{COMPARE}html="])
def test_a_place_where_no_file_can_be(home: Path, command: str, place: str) -> None:
    os.mkfifo(home / "fifo")
    words = command.split(" ")
    device = Path("/dev/null").stat().st_rdev
    done = ask(*words[:-1], words[-1] + PLACES[place], cwd=home)
    assert Path("/dev/null").stat().st_rdev == device, "a device was replaced"
    assert "starting" not in done.stderr


@pytest.mark.parametrize(
    "place", ["empty", "below a file", "below a device", "far too long", "NUL", "not UTF-8",
              "a FIFO", "a long path", "below a system's directory"]
)  # fmt: skip
def test_a_place_where_no_run_can_be(home: Path, place: str) -> None:
    os.mkfifo(home / "fifo")
    ask("compare", "-c", "parity.toml", "-o", PLACES[place], cwd=home)


@pytest.mark.parametrize("name", ["it's", 'a "b"', "both ' and \"", "a\\b", "ü ✓ 😀", "-x", "a=b"])
def test_a_run_goes_where_it_is_told(home: Path, name: str) -> None:
    before = snapshot(home)
    done = call_cli("compare", "-c", "parity.toml", f"--out={name}", cwd=home)
    assert done.returncode in VERDICTS, done.stderr
    assert [path.name for path in (home / name).iterdir()]
    assert before.items() <= snapshot(home).items()


def test_an_output_of_before_is_replaced(home: Path) -> None:
    (home / "x.json").write_text("of before")
    done = call_cli("compare", "a.parquet", "b.parquet", "--write", "json=x.json", cwd=home)
    assert done.returncode in VERDICTS
    assert (home / "x.json").read_text().startswith("{")
