"""`compare --resume`: what an interrupted run recorded is kept, and only the rest is recorded."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from helpers.support import assert_fails, assert_tidy, call_cli, fake_config, only_run
from parity_check.config.models import Workload
from parity_check.engines.base import Engine
from parity_check.recording import batches, further, requests
from parity_check.traces import manifest
from parity_check.traces.trace import Trace, write_trace

WORKLOAD = {"num_prompts": 10, "max_tokens": 12, "samples_per_prompt": 2, "repeats": 1}


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "TOKENS_PER_BATCH", 300)


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let so many batches be written, and then interrupt."""

    def after(number: int) -> None:
        left = iter(range(number))

        def write(*arguments: Any) -> Any:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return write_trace(*arguments)

        monkeypatch.setattr(batches, "write_trace", write)

    return after


def begin(directory: Path, *arguments: object, code: int = 130) -> Path:
    done = call_cli("compare", "-c", "parity.toml", *arguments, cwd=directory)
    assert done.returncode == code, done.stderr
    run = only_run(directory)
    if code == 130:
        assert f"to continue: parity-check compare --resume runs/{run.name}" in done.stderr
        assert not (run / ".work").exists()
    return run


def resume(run: Path, monkeypatch: pytest.MonkeyPatch, code: int = 4) -> None:
    monkeypatch.setattr(batches, "write_trace", write_trace)
    done = call_cli("compare", "--resume", f"runs/{run.name}", cwd=run.parent.parent)
    assert done.returncode == code, done.stdout + done.stderr
    assert not list(run.glob("*.batches"))
    assert not list(run.glob("*.partial.jsonl"))
    again = call_cli("report", f"runs/{run.name}", cwd=run.parent.parent)
    assert again.stdout.splitlines()[-3:-1] == done.stdout.splitlines()[-3:-1]


def samples(path: Path) -> dict[str, tuple[Any, ...]]:
    found = {
        each.sample_id: (tuple(each.completion_token_ids), tuple(each.logprobs))
        for each in Trace(path).samples()
    }
    assert len(found) == Trace(path).header.samples
    return found


def test_batches_make_the_trace_of_one_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for size, name in ((300, "small"), (1 << 22, "one")):
        monkeypatch.setattr(batches, "TOKENS_PER_BATCH", size)
        (tmp_path / name).mkdir()
        fake_config(tmp_path / name, workload=WORKLOAD)
        found.append(begin(tmp_path / name, code=4))
    for path in sorted(found[0].glob("*.parquet")):
        small, one = Trace(path), Trace(found[1] / path.name)
        assert small.row_groups > 1
        assert one.row_groups == 1
        assert list(small.samples()) == list(one.samples())
        assert small.header.token_digest == one.header.token_digest
        assert small.header.tokens == one.header.tokens
        assert small.vocabulary() == one.vocabulary()


def test_one_batch_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Samples(list[Any]):
        """A list that can be watched."""

    drawn: list[weakref.ref[Samples]] = []
    draw = requests.draw

    def watched(engine: Engine, planned: Sequence[requests.Turn], workload: Workload) -> Samples:
        assert all(each() is None for each in drawn)
        found = Samples(draw(engine, planned, workload))
        drawn.append(weakref.ref(found))
        return found

    monkeypatch.setattr(requests, "draw", watched)
    fake_config(tmp_path, workload={**WORKLOAD, "sampled_by": "reference"})
    begin(tmp_path, code=4)
    assert len(drawn) > 2


@pytest.mark.parametrize("number", [0, 1, 5, 9, 14, 20])
def test_what_was_recorded_is_kept(
    tmp_path: Path,
    interrupt: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    fake_config(tmp_path, workload=WORKLOAD)
    interrupt(number)
    run = begin(tmp_path)
    before = {
        path.relative_to(run).parts[0].partition(".")[0]: samples(path)
        for path in sorted(run.rglob("*.parquet"))
    }
    assert bool(before) == (number > 0)
    resume(run, monkeypatch)
    for stem, kept in before.items():
        assert kept.items() <= samples(run / f"{stem}.parquet").items()
    assert {len(samples(path)) for path in run.glob("*.parquet")} == {20}
    assert_tidy(tmp_path)


def test_a_killed_run_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was tidied: its working files, and a batch that was half written, are there."""
    fake_config(tmp_path, workload=WORKLOAD)
    run = begin(tmp_path, code=4)
    for path in (*run.glob("report.*"), run / "candidate-repeat-1.parquet"):
        path.unlink()
    manifest = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**manifest, "sha256": {}}))
    (run / ".work" / "candidate").mkdir(parents=True)
    parts = run / "candidate-repeat-1.batches"
    parts.mkdir()
    (parts / "0001.parquet.partial").write_bytes(b"PAR1")
    before = {path.name: path.read_bytes() for path in run.glob("*.parquet")}
    resume(run, monkeypatch)
    assert len(before) == 5
    assert {name: (run / name).read_bytes() for name in before} == before


def test_looks_are_continued_with_other_samples(
    tmp_path: Path, interrupt: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Engines that begin again with the same seed would draw the first look's samples again."""
    looked = {**WORKLOAD, "num_prompts": "enough", "most_tokens": 400, "repeats": 0}
    looked |= {"prompts": "two.jsonl", "max_tokens": 12}
    (tmp_path / "two.jsonl").write_text('{"prompt": "one"}\n{"prompt": "two"}\n')
    fake_config(tmp_path, workload=looked, stats={"cluster_by": "sample"})
    interrupt(7)
    run = begin(tmp_path)
    assert [path.name for path in run.glob("look-*")]
    before = samples(run / "reference.parquet")
    resume(run, monkeypatch)
    after = samples(run / "reference.parquet")
    assert before.items() < after.items()
    drawn = [tokens for tokens, _ in after.values() if len(tokens) > 6]
    assert len(set(drawn)) == len(drawn)


@pytest.mark.parametrize("replaced", [0, 1, 2, 4])
def test_a_join_that_is_interrupted_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replaced: int
) -> None:
    """Of the run's four files, some hold both looks and some the first one alone."""
    looked = {**WORKLOAD, "num_prompts": "enough", "most_tokens": 400, "repeats": 0}
    looked |= {"prompts": "two.jsonl", "max_tokens": 12}
    (tmp_path / "two.jsonl").write_text('{"prompt": "one"}\n{"prompt": "two"}\n')
    fake_config(tmp_path, workload=looked, stats={"cluster_by": "sample"})
    done: list[Path] = []
    replace, finish = Path.replace, manifest.finish

    def replace_or_stop(self: Path, target: Path) -> Path:
        if self.parent.name == further.JOINED and not self.name.endswith(".part"):
            if len(done) == replaced:
                raise KeyboardInterrupt
            done.append(self)
        return replace(self, target)

    def finish_or_stop(directory: Path, looks: int = 1) -> None:
        if looks > 1:
            raise KeyboardInterrupt
        finish(directory, looks)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", replace_or_stop)
        patched.setattr(manifest, "finish", finish_or_stop)
        run = begin(tmp_path)
    names = [path.name for path in run.glob("*.parquet")]
    before = {name: samples(run / name) for name in names}
    both = {**before}
    for name in names:
        both[name] = both[name] | samples(run / "look-2" / name)
    assert len(done) == replaced, done
    assert sum(before[name] == both[name] for name in names) == replaced
    resume(run, monkeypatch)
    assert not list(run.glob("look-*"))
    for name in names:
        assert both[name].items() <= samples(run / name).items()
    assert len({len(samples(run / name)) for name in names}) == 1


@pytest.mark.parametrize("option", ["--reference-trace", "--workload-trace"])
def test_runs_on_a_stored_trace_are_continued(
    tmp_path: Path,
    interrupt: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    option: str,
) -> None:
    home = tmp_path / "recorded"
    home.mkdir()
    fake_config(home, workload=WORKLOAD)
    source = begin(home, code=4) / "reference.parquet"
    fake_config(tmp_path, workload=WORKLOAD)
    interrupt(2)
    run = begin(tmp_path, option, source)
    resume(run, monkeypatch)
    assert samples(run / "reference.parquet").keys() == samples(source).keys()


def edited(name: str, old: str, new: str) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        path = next(directory.glob(name))
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            edited("runs/*/config.toml", "temperature = 1.0", "temperature = 0.7"),
            "workload.temperature (1.0, now 0.7)",
        ),
        (
            edited("runs/*/config.toml", "noise = 0.01", "noise = 0.02"),
            "candidate.engine_args.noise (0.01, now 0.02)",
        ),
        (edited("runs/*/config.toml", "repeats = 1", "repeats = 2"), "to record other traces"),
        (edited("prompts.jsonl", "prompt 1", "prompt one"), "for other prompts or tokens"),
    ],
)
def test_another_run_is_not_mixed_in(
    tmp_path: Path,
    interrupt: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    edit: Callable[[Path], None],
    message: str,
) -> None:
    rows = [json.dumps({"prompt": f"this is prompt {number}"}) for number in range(10)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(rows) + "\n")
    more = {"prompts": "prompts.jsonl", "temperature": 1.0}
    fake_config(tmp_path, candidate={"noise": 0.01}, workload={**WORKLOAD, **more})
    interrupt(7)
    run = begin(tmp_path)
    edit(tmp_path)
    before = {path: path.read_bytes() for path in run.rglob("*.parquet")}
    monkeypatch.setattr(batches, "write_trace", write_trace)
    assert_fails(call_cli("compare", "--resume", run, cwd=tmp_path), 2, message)
    assert {path: path.read_bytes() for path in run.rglob("*.parquet")} == before


def test_what_cannot_be_continued(tmp_path: Path) -> None:
    fake_config(tmp_path, workload=WORKLOAD)
    run = begin(tmp_path, code=4)
    done = call_cli("compare", "--resume", run, cwd=tmp_path)
    assert_fails(done, 2, "the run is finished", f"parity-check report {run}")
    assert_fails(call_cli("compare", "--resume", "nowhere", cwd=tmp_path), 2, "nowhere")
    for more in (["-c", "parity.toml"], ["--set", "workload.seed=1"], ["--temperature", "1"]):
        done = call_cli("compare", "--resume", run, *more, cwd=tmp_path)
        assert done.returncode == 2
        assert "Invalid value for --resume: continues a run as it was begun" in done.stderr
    (run / "run.json").unlink()
    done = call_cli("compare", "--resume", run, cwd=tmp_path)
    assert_fails(done, 2, "not an interrupted run of `compare`")


def test_a_directory_beside_a_recorded_trace_is_kept(tmp_path: Path) -> None:
    """`record` writes anywhere: what is there is the user's."""
    fake_config(tmp_path, workload=WORKLOAD)
    (tmp_path / "T.batches").mkdir()
    (tmp_path / "T.batches" / "mine.txt").write_text("mine")
    done = call_cli("record", "--engine", "reference", "-o", "T.parquet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.glob("T*")) == ["T.batches", "T.parquet"]
    assert (tmp_path / "T.batches" / "mine.txt").read_text() == "mine"
