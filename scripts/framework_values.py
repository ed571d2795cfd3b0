"""What each framework's own function counts, on stored arrays: tests/data/framework-values.json.

    <python with torch> scripts/framework_values.py CHECKOUTS tests/data/p2-heavy0.npz

CHECKOUTS holds a checkout of each framework under the name of its repository (verl, trl, prime-rl,
slime, PipelineRL, RL, SkyRL, open-instruct, ROLL, OpenRLHF), at the versions of VERSIONS in
src/parity_check/measure/objectives.py. Functions are taken out of their files one by one, as they
stand, so none of the frameworks has to be installed. Every value is there twice: with all
advantages 1, and with all -1.
"""

from __future__ import annotations

import ast
import json
import math
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

Values = dict[str, float]


class Settings(dict[str, Any]):
    """A configuration, by key and by attribute; what is not there is None."""

    def __getattr__(self, name: str) -> Any:
        return self.get(name)


@dataclass
class Batch:
    """Padded tensors [B, T]: logprobs of rollout and trainer, mask, advantages."""

    rollout: torch.Tensor
    trainer: torch.Tensor
    mask: torch.Tensor
    advantages: torch.Tensor

    def rows(self, values: torch.Tensor) -> list[torch.Tensor]:
        lengths = self.mask.sum(dim=1).int().tolist()
        return [row[:length] for row, length in zip(values, lengths, strict=True)]


def load(path: Path, sign: float) -> Batch:
    stored = np.load(path)
    size = int(stored["n"])

    def padded(side: str) -> torch.Tensor:
        rows = [torch.tensor(stored[f"{side}{row}"]) for row in range(size)]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)

    mask = torch.nn.utils.rnn.pad_sequence(
        [torch.ones(len(stored[f"b{row}"])) for row in range(size)], batch_first=True
    )
    return Batch(padded("b"), padded("e"), mask, torch.full_like(mask, sign))


def taken(path: Path, names: set[str], **known: Any) -> Any:
    """Functions and classes of a file, without their decorators and imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kept = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in names:
            kinds = ("staticmethod", "dataclass")
            node.decorator_list = [
                each for each in node.decorator_list if getattr(each, "id", None) in kinds[1:]
            ]
            kept.append(node)
    future = ast.parse("from __future__ import annotations").body
    module = ast.Module(body=[*future, *kept], type_ignores=[])
    space: dict[str, Any] = {"torch": torch, "math": math, "np": np, **known}
    from dataclasses import field

    space |= {"dataclass": dataclass, "field": field, "__name__": path.stem}
    sys.modules.setdefault(path.stem, types.ModuleType(path.stem))
    exec(compile(module, str(path), "exec"), space)  # the frameworks' own code, at the user's wish
    return types.SimpleNamespace(**space)


def verl(root: Path, b: Batch) -> Iterator[tuple[str, float]]:
    functional = taken(root / "verl/utils/torch_functional.py", {"masked_mean", "masked_sum"})
    losses = {"vanilla", "dppo_tv", "dppo_kl", "gspo", "geo_mean", "cispo"}
    core = taken(
        root / "verl/trainer/ppo/core_algos.py",
        {f"compute_policy_loss_{each}" for each in losses} | {"agg_loss"},
        verl_F=functional, AlgoConfig=type("AlgoConfig", (), {}), ActorConfig=Settings,
    )  # fmt: skip

    def counted(loss: str, name: str = "actor/pg_clipfrac", **settings: Any) -> float:
        config = Settings(
            {"clip_ratio": 0.2, "clip_ratio_c": 3.0, "global_batch_info": {}, **settings}
        )
        arguments = (b.rollout, b.trainer, b.advantages, b.mask, "token-mean", config, None)
        _, found = getattr(core, f"compute_policy_loss_{loss}")(*arguments)
        return float(found[name])

    yield "ppo", counted("vanilla")
    yield "grpo", counted("vanilla")
    yield "dapo", counted("vanilla", clip_ratio_low=0.2, clip_ratio_high=0.28)
    yield "dual-clip", counted("vanilla", "actor/pg_clipfrac_lower")
    yield "dppo-tv", counted("dppo_tv")
    yield "dppo-kl", counted("dppo_kl")
    yield "gspo-verl", counted("gspo", clip_ratio_low=3e-4, clip_ratio_high=4e-4)
    yield "gmpo", counted("geo_mean", clip_ratio_low=0.4, clip_ratio_high=0.4)
    yield "cispo", counted("cispo", clip_ratio_low=1.0, clip_ratio_high=5.0)
    correction = taken(
        root / "verl/trainer/ppo/rollout_corr_helper.py",
        {
            "_parse_rollout_is_threshold", "_parse_rollout_rs_thresholds", "compute_rs_metrics",
            "compute_rollout_rejection_mask", "compute_rollout_correction_weights",
            "compute_is_metrics",
        },
        verl_F=functional, SAFETY_BOUND=20.0,
        TOKEN_LEVEL_ROLLOUT_RS_OPTIONS={"token_k1", "token_k2", "token_k3"},
        SUPPORTED_ROLLOUT_RS_OPTIONS={
            *(f"token_k{k}" for k in (1, 2, 3)), *(f"seq_sum_k{k}" for k in (1, 2, 3)),
            *(f"seq_mean_k{k}" for k in (1, 2, 3)), "seq_max_k2", "seq_max_k3",
        },
    )  # fmt: skip
    delta = b.trainer - b.rollout
    thresholds = {
        "token_k1": "0.5_2.0", "token_k2": 0.5, "token_k3": 0.5, "seq_sum_k1": "0.5_2.0",
        "seq_sum_k2": 1.0, "seq_sum_k3": 1.0, "seq_mean_k1": "0.999_1.001", "seq_mean_k2": 0.01,
        "seq_mean_k3": 0.01, "seq_max_k2": 2.5, "seq_max_k3": 2.5,
    }  # fmt: skip
    for option, threshold in thresholds.items():
        _, found = correction.compute_rollout_rejection_mask(delta, b.mask, option, threshold)
        share = "masked_fraction" if option.startswith("token") else "seq_masked_fraction"
        name = "geometric-mask" if option == "seq_mean_k1" else f"rs-{option.replace('_', '-')}"
        yield name, found[f"rollout_rs_{option}_{share}"]
    _, found = correction.compute_rollout_rejection_mask(delta, b.mask, "seq_mean_k1", "0.99_1.05")
    yield "geometric-mask 0.99 1.05", found["rollout_rs_seq_mean_k1_seq_masked_fraction"]
    _, found = correction.compute_rollout_correction_weights(delta, b.mask, "token", 2.0)
    yield "tis-token", found["rollout_is_ratio_fraction_high"]
    yield "ess_truncated", found["rollout_is_eff_sample_size"]
    yield "truncated_importance_ratio", found["rollout_is_mean"]
    _, found = correction.compute_rollout_correction_weights(delta, b.mask, "sequence", 2.0)
    yield "tis-sequence", found["rollout_is_ratio_fraction_high"]
    _, found = correction.compute_rollout_correction_weights(delta, b.mask, "token", "0.5_5.0")
    yield "icepop", found["rollout_is_oob_ratio"]


def prime_rl(root: Path, b: Batch) -> Iterator[tuple[str, float]]:
    path = root / "src/prime_rl/trainer/rl/loss.py"
    names = {
        "default_loss_fn", "ipo_loss_fn", "_safe_mean", "compute_importance_ratio_and_mismatch_kl",
        "LossOutputs",
    }  # fmt: skip
    module = taken(path, names, Tensor=torch.Tensor)
    there = b.mask.bool()
    inputs = Settings(
        trainer_logprobs=b.trainer[there], inference_logprobs=b.rollout[there],
        advantages=b.advantages[there], loss_mask=torch.ones(int(there.sum()), dtype=torch.bool),
    )  # fmt: skip
    own = Settings(
        dppo_mask_low=0.2, dppo_mask_high=0.2, ipo_threshold=0.1, adv_tau=1.0, kl_tau=1e-3
    )
    yield "dppo", float(module.default_loss_fn(inputs, own).metrics["is_masked"])
    yield "ipo", float(module.ipo_loss_fn(inputs, own).metrics["is_masked"])


def slime(root: Path, b: Batch) -> Iterator[tuple[str, float]]:
    ppo = taken(
        root / "slime/utils/ppo_utils.py",
        {"compute_policy_loss", "compute_cispo_loss", "compute_gspo_kl", "compute_opsm_mask"},
    )
    loss = taken(
        root / "slime/backends/megatron_utils/loss.py", {"vanilla_tis_function", "icepop_function"}
    )
    new, old, masks, advantages = (
        b.rows(each) for each in (b.trainer, b.rollout, b.mask, b.advantages)
    )
    lengths, flat = [len(each) for each in new], torch.cat(advantages)

    def sample_mean(values: torch.Tensor) -> float:
        return float(np.mean([float(each.mean()) for each in values.split(lengths)]))

    kl = torch.cat(old) - torch.cat(new)
    yield "grpo-slime", sample_mean(ppo.compute_policy_loss(kl, flat, 0.2, 0.2)[1])
    yield "cispo-slime", sample_mean(ppo.compute_cispo_loss(kl, torch.cat(new), flat, 1.0, 5.0)[1])
    sequence_kl = ppo.compute_gspo_kl(new, old, new, masks)
    yield "gspo", sample_mean(ppo.compute_policy_loss(sequence_kl, flat, 3e-4, 4e-4)[1])
    _, masked = ppo.compute_opsm_mask(Settings(opsm_delta=1e-4), new, old, advantages, masks)
    yield "opsm-slime", float(masked) / len(new)
    sides = {"train_log_probs": new, "rollout_log_probs": old, "loss_masks": masks}
    for name, function, low, high in (
        ("tis-slime", loss.vanilla_tis_function, 0.0, 2.0),
        ("icepop-slime", loss.icepop_function, 0.5, 5.0),
    ):
        own = Settings(tis_clip_low=low, tis_clip=high)
        *_, found = function(own, pg_loss=torch.zeros(len(flat)), **sides)
        yield name, sample_mean(found["tis_clipfrac"])


def skyrl(root: Path, b: Batch) -> Iterator[tuple[str, float]]:
    base = root / "skyrl/backends/skyrl_train/utils"
    tools = vars(taken(base / "torch_utils.py", {"masked_mean", "safe_exp_delta"}))
    own = {name: tools[name] for name in ("masked_mean", "safe_exp_delta")}
    names = {
        "compute_tis_ratio", "compute_outlier_token_mask", "compute_token_mask",
        "compute_sequence_mask",
    }  # fmt: skip
    correction = taken(base / "off_policy_correction_utils.py", names, **own)

    def untouched(loss: Any, _old: Any, _rollout: Any, mask: Any, _config: Any) -> Any:
        return loss, mask, {}

    ppo = taken(
        base / "ppo_utils.py", {"rollout_is_policy_loss", "dppo_policy_loss"},
        apply_off_policy_correction=untouched, reduce_loss=lambda loss, _mask: loss.sum(), **own,
    )  # fmt: skip
    edges = Settings(
        token_tis_ratio_clip_high=2.0, sequence_tis_ratio_clip_high=5.0, geo_mask_low=0.99,
        geo_mask_high=1.01, product_mask_low=0.5, product_mask_high=2.0,
        outlier_token_is_threshold_low=1e-4, outlier_token_is_threshold_high=100.0,
        token_mask_is_threshold_low=0.5, token_mask_is_threshold_high=2.0,
    )  # fmt: skip
    sides = (b.trainer, b.rollout, b.mask)
    for kind, metric in (
        ("token", "tis_token_clip_high_ratio"), ("sequence", "tis_seq_clip_high_ratio")
    ):  # fmt: skip
        _, found = correction.compute_tis_ratio(*sides, kind, edges)
        yield {"token": "tis-token", "sequence": "tis-sequence-skyrl"}[kind], found[metric]
    _, found = correction.compute_outlier_token_mask(*sides, edges)
    yield "outlier-mask-skyrl", found["outlier_seq_masked_ratio"]
    tight = Settings(outlier_token_is_threshold_low=0.3, outlier_token_is_threshold_high=3.0)
    _, found = correction.compute_outlier_token_mask(*sides, tight)
    yield "outlier-mask-skyrl 0.3 3", found["outlier_seq_masked_ratio"]
    _, found = correction.compute_token_mask(*sides, edges)
    yield "token-mask-skyrl", found["token_mask_ratio"]
    for kind, metric in (("geometric", "geo"), ("product", "product")):
        _, found = correction.compute_sequence_mask(*sides, kind, edges)
        yield f"{kind}-mask-skyrl", found[f"{metric}_sequence_mask_masked_ratio"]
    config = Settings(
        eps_clip_low=0.2, eps_clip_high=0.2, off_policy_correction=None,
        dppo=Settings(dppo_type="binary_tv", delta_low=0.2, delta_high=0.2),
    )  # fmt: skip
    arguments = (b.trainer, b.trainer, b.advantages, config, b.mask, b.rollout)
    yield "rollout-is-skyrl", ppo.rollout_is_policy_loss(*arguments)[1]["clip_ratio"]
    yield "dppo-tv", ppo.dppo_policy_loss(*arguments)[1]["clip_ratio"]
    config["dppo"]["dppo_type"] = "binary_kl"
    yield "dppo-kl", ppo.dppo_policy_loss(*arguments)[1]["clip_ratio"]


def open_instruct(root: Path, b: Batch) -> Iterator[tuple[str, float]]:
    names = {"compute_rho_correction", "_rho_drop_masks", "_sequence_level_mean", "RhoCorrection"}
    module = taken(root / "open_instruct/grpo_utils.py", names | {"compute_grpo_loss"},
                   GRPOLossType=Settings(dapo="dapo", cispo="cispo"))  # fmt: skip
    there = b.mask.bool()

    def sample_mean(values: torch.Tensor) -> float:
        return float(((values * b.mask).sum(dim=1) / b.mask.sum(dim=1)).mean())

    config = Settings(
        use_rho_correction=True, rho_clamp_lower_bound=0.0, rho_clamp_upper_bound=2.0,
        rho_mask_lower_bound=0.0, rho_mask_upper_bound=0.0, clip_lower=0.2, clip_higher=0.272,
        loss_fn="dapo",
    )  # fmt: skip
    sides = (b.trainer, b.rollout, there, b.advantages)
    found = module.compute_rho_correction(*sides, config).metrics
    yield "tis-slime", sample_mean(found["val/rho_clipfrac"])
    for bound in (0.5, 0.1):
        config |= {"rho_mask_upper_bound": bound, "rho_mask_tv_divergence": True}
        found = module.compute_rho_correction(*sides, Settings(config)).metrics
        name = "tv-mask-open-instruct" + ("" if bound == 0.5 else f" {bound:g}")
        yield name, sample_mean(found["val/rho_drop_frac"])
    ratio = torch.exp(b.trainer - b.rollout)
    _, clipped, _ = module.compute_grpo_loss(
        b.trainer, ratio, b.advantages, None, Settings(config), torch.ones_like(ratio)
    )
    yield "grpo-open-instruct", sample_mean(clipped)


def roll(root: Path, b: Batch) -> Iterator[tuple[str, float]]:
    tools = vars(
        taken(root / "roll/utils/functionals.py", {"agg_loss", "masked_mean", "masked_sum"})
    )
    module = taken(
        root / "roll/utils/train_infer_corrections.py",
        {
            "compute_train_infer_correction", "_compute_all_granularity",
            "_infer_global_valid_samples_from_mask", "_infer_global_valid_tokens_from_mask",
        },
        compute_segment_masked_mean=lambda values, _mask: values,
        **{name: tools[name] for name in ("agg_loss", "masked_mean", "masked_sum")},
    )  # fmt: skip
    ratio = Settings(
        enabled=True, agg_type="token", ratio_enabled=True, ratio_low=0.8, ratio_high=1.2
    )
    difference = Settings(
        enabled=True, agg_type="token", diff_enabled=True, diff_low=-0.2, diff_high=0.2
    )
    config = Settings(
        is_weight=Settings(enabled=True, weight_type="token", upper_bound=1.2),
        filters=[ratio, difference],
    )
    *_, found = module.compute_train_infer_correction(
        config, b.mask, b.trainer * b.mask, b.rollout * b.mask
    )
    padding = float((b.mask == 0).sum() / b.mask.sum())  # passes, and is in its numerators
    yield "tis-roll", found["actor/is_weight_clipfrac@sum"]
    yield "filter-roll", 1 - (found["actor/train_infer_token_ratio_mask_mean@sum"] - padding)
    yield (
        "difference-filter-roll",
        1 - (found["actor/train_infer_token_diff_mask_mean@sum"] - padding),
    )
    yield "sequence_importance_ratio", found["actor/train_infer_ratio_token_mean@sum"]


def openrlhf(root: Path, b: Batch) -> Iterator[tuple[str, float]]:
    def masked_mean(values: torch.Tensor, mask: torch.Tensor, dim: int | None = None) -> Any:
        if dim is None:
            return (values * mask).sum() / mask.sum()
        return (values * mask).sum(dim) / mask.sum(dim)

    module = taken(
        root / "openrlhf/models/loss.py", {"PolicyLoss"}, nn=torch.nn, masked_mean=masked_mean,
        aggregate_loss=lambda loss, *_, **__: loss.sum(),
    )  # fmt: skip
    loss = module.PolicyLoss(
        3e-4, 4e-4, policy_loss_type="gspo", enable_vllm_is_correction=True,
        vllm_is_truncated_threshold=[0.5, 5.0],
    )  # fmt: skip
    found = loss(b.trainer, b.trainer, b.advantages, b.mask, b.rollout)
    yield "gspo-verl", float(found[1])


def pipelinerl(root: Path, b: Batch) -> Iterator[tuple[str, float]]:
    """The lines of rl_step between the ratio and the loss, and its averages."""
    source = (root / "pipelinerl/finetune/rl/__init__.py").read_text(encoding="utf-8")
    step = next(
        node for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and node.name == "rl_step"
    )  # fmt: skip
    [match] = (node for node in step.body if isinstance(node, ast.Match))
    per_sequence = b.mask / b.mask.sum(dim=1, keepdim=True) / len(b.mask)
    for loss, epsilon in (("reinforce", (0.02, 0.02)), ("ppo", (0.02, 0.02))):
        space: dict[str, Any] = {
            "torch": torch, "config": Settings(
                policy_loss=loss, epsilon_low=epsilon[0], epsilon_high=epsilon[1]
            ),
            "ratio_new_old": torch.exp(b.trainer - b.rollout), "new_logprobs": b.trainer,
            "log_p_weights": b.advantages,
        }  # fmt: skip
        exec(compile(ast.Module(body=[match], type_ignores=[]), "rl_step", "exec"), space)
        clamped = space["clamp_log_ratio_new_old_indicators"].float()
        yield f"{loss}-pipelinerl", float((clamped * per_sequence).sum())
        name = "clamped_importance_ratio" if loss == "reinforce" else "sequence_importance_ratio"
        yield name, float((space["ratio_new_old"] * per_sequence).sum())


def trl(root: Path, b: Batch) -> Iterator[tuple[str, float]]:
    module = taken(root / "trl/trainer/grpo_trainer.py", {"get_off_policy_mask"})
    for threshold in (0.5, 0.02):
        kept = module.get_off_policy_mask(
            b.advantages[:, :1], b.trainer, b.rollout, b.mask, threshold
        )
        yield "opsm-trl" + ("" if threshold == 0.5 else f" {threshold:g}"), float(1 - kept.mean())


def nemo_rl(root: Path, b: Batch) -> Iterator[tuple[str, float]]:
    tools = vars(taken(root / "nemo_rl/algorithms/utils.py", {"masked_mean", "calculate_kl"}))
    module = taken(
        root / "nemo_rl/algorithms/loss/loss_functions.py", {"ClippedPGLossFn"},
        LossType=Settings(TOKEN_LEVEL="token"), LossFunction=object, LossInputType=Settings(),
        **{name: tools[name] for name in ("masked_mean", "calculate_kl")},
    )  # fmt: skip

    def shifted(values: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros(len(values), 1), values], dim=1)

    data = Settings(
        token_mask=shifted(b.mask), sample_mask=torch.ones(len(b.mask)),
        advantages=shifted(b.advantages), prev_logprobs=shifted(b.trainer),
        generation_logprobs=shifted(b.rollout),
    )  # fmt: skip
    for kind, low, high, name in (
        ("tis", None, 2.0, "tis-token"),
        ("icepop", 0.5, 5.0, "icepop"),
        ("seq-mask-tis", 0.999, 1.002, "seq-mask-tis"),
    ):
        loss = Settings(
            loss_type="token", reference_policy_kl_penalty=0, reference_policy_kl_type="k3",
            ratio_clip_min=0.2, ratio_clip_max=0.2, positive_example_nll_weight=0.0,
            truncated_importance_sampling_type=kind, truncated_importance_sampling_ratio_min=low,
            truncated_importance_sampling_ratio=high,
        )  # fmt: skip
        sizes = (torch.tensor(float(len(b.mask))), b.mask.sum())
        _, found = module.ClippedPGLossFn.__call__(loss, b.trainer, data, *sizes)
        yield name, found["is_oob_ratio"]
        if kind == "tis":
            yield "truncated_importance_ratio", found["sampling_importance_ratio"]


FRAMEWORKS: dict[str, tuple[str, Callable[[Path, Batch], Iterator[tuple[str, float]]]]] = {
    "verl": ("verl", verl),
    "prime-rl": ("prime-rl", prime_rl),
    "slime": ("slime", slime),
    "SkyRL": ("SkyRL", skyrl),
    "open-instruct": ("open-instruct", open_instruct),
    "ROLL": ("ROLL", roll),
    "OpenRLHF": ("OpenRLHF", openrlhf),
    "PipelineRL": ("PipelineRL", pipelinerl),
    "TRL": ("trl", trl),
    "NeMo-RL": ("RL", nemo_rl),
}


def main() -> None:
    checkouts, arrays = map(Path, sys.argv[1:])
    found: dict[str, dict[str, list[float]]] = {}
    for framework, (directory, values) in FRAMEWORKS.items():
        sides = [dict(values(checkouts / directory, load(arrays, sign))) for sign in (1.0, -1.0)]
        found[framework] = {name: [side[name] for side in sides] for name in sides[0]}
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
