"""vLLM worker extension: teacher-forced decode, the fp32 lm_head, and observations.

vLLM imports this module in every worker process before it builds the model, through
`worker_extension_cls="parity_check_extension.ParityExtension"`: the only hook that exists from
0.8.5 to the newest version and does not change what is measured. (`logits_processors=` would switch
the model runner on 0.22 to 0.30.) The import applies the patches; the methods are RPC endpoints.

Forced decode: a request with `extra_args={"parity_check_forced": [ids]}` gets these ids, one per
step, instead of sampled ones. Logits, processing and returned logprobs are unchanged, so a forced
token's logprob is the one that the engine would have returned if it had sampled that token. The
step is computed from token counts, not from the list of outputs, which is correct under chunked
prefill, preemption, async scheduling and batch reordering.

fp32 lm_head: `PARITY_CHECK_LM_HEAD=float32` in the environment. The weight is read at call time,
which is correct after an in-place weight update and with tied embeddings. Where torch cannot
multiply into float32 (GPUs before torch 2.8, CPUs), it is upcast in parts of HEAD_BUDGET bytes.
"""

import contextlib
import importlib
import inspect
import os
import random

import numpy as np
import torch
from parity_check_modules import ModuleEndpoints
from parity_check_probe import ProbeEndpoints
from parity_check_weights import WeightEndpoints

FORCED = "parity_check_forced"
FP32_REQUESTED = os.environ.get("PARITY_CHECK_LM_HEAD") == "float32"

observed = {"lm_head_dtype": None, "scheduler": None}
patched = []


def _forced(params):
    return (getattr(params, "extra_args", None) or {}).get(FORCED)


def _refuse_speculation(present):
    if present:
        raise RuntimeError("forced decode does not work with speculative decoding")


def _overwrite(sampled, rows):
    """Replace sampled ids on their device, where the next step reads them, with one write."""
    if rows:
        places, tokens = zip(*rows)
        sampled[torch.tensor(places, device=sampled.device)] = torch.tensor(
            tokens, device=sampled.device, dtype=sampled.dtype
        )


# --- forced decode: V0 --------------------------------------------------------------------------


def _patch_v0():
    try:
        from vllm.model_executor.layers import sampler as module
    except ImportError:
        return
    if not hasattr(module, "_sample"):
        return
    original = module._sample

    def _sample(probs, logprobs, sampling_metadata, sampling_tensors, **kwargs):
        results, ids = original(probs, logprobs, sampling_metadata, sampling_tensors, **kwargs)
        if not isinstance(results, list):
            raise RuntimeError("forced decode needs num_scheduler_steps = 1")
        forced_results = []
        for group, result in zip(sampling_metadata.seq_groups, results):
            forced = _forced(group.sampling_params)
            if forced is not None and group.do_sample:  # False: an unfinished prefill chunk
                (seq_id,) = group.seq_ids
                step = len(group.seq_data[seq_id].output_token_ids)
                if step < len(forced):
                    result = ([forced[step]], result[1])
                    if ids is not None:
                        ids[group.sample_indices[0]] = forced[step]
            forced_results.append(result)
        return forced_results, ids

    module._sample = _sample
    patched.append("v0")


# --- forced decode: V1, model runner v1 ---------------------------------------------------------

_rows = []  # (row, token) of the current sampling step


def _patch_v1_runner_v1():
    try:
        from vllm.v1.sample.sampler import Sampler
        from vllm.v1.worker.gpu_model_runner import GPUModelRunner
    except ImportError:
        return
    if not hasattr(GPUModelRunner, "_sample"):  # before 0.10 sampling was not a separate step
        return
    execute, runner_sample, sample = (
        GPUModelRunner.execute_model,
        GPUModelRunner._sample,
        Sampler.sample,
    )

    def execute_model(self, scheduler_output, *args, **kwargs):
        self._parity_check_scheduled = scheduler_output.num_scheduled_tokens
        return execute(self, scheduler_output, *args, **kwargs)

    def _sample(self, logits, spec_decode_metadata, *args, **kwargs):
        batch = self.input_batch
        for row, request_id in enumerate(batch.req_ids):
            request = self.requests[request_id]
            forced = _forced(request.sampling_params)
            if forced is None:
                continue
            _refuse_speculation(spec_decode_metadata is not None)
            prompt_tokens = getattr(request, "num_prompt_tokens", None)
            if prompt_tokens is None:
                prompt_tokens = len(request.prompt_token_ids)
            seen = int(batch.num_computed_tokens_cpu[row])
            step = seen + self._parity_check_scheduled.get(request_id, 0) - prompt_tokens
            if 0 <= step < len(forced):  # negative: a prefill chunk that is not the last one
                _rows.append((row, forced[step]))
        try:
            return runner_sample(self, logits, spec_decode_metadata, *args, **kwargs)
        finally:
            _rows.clear()

    def forced_sample(self, *args, **kwargs):
        sampled, processed = sample(self, *args, **kwargs)
        _overwrite(sampled, _rows)
        return sampled, processed

    GPUModelRunner.execute_model = execute_model
    GPUModelRunner._sample = _sample
    Sampler.sample = forced_sample
    patched.append("v1-runner-v1")


# --- forced decode: V1, model runner v2 ---------------------------------------------------------


def _patch_v1_runner_v2():
    try:
        from vllm.v1.worker.gpu.sample.sampler import Sampler
    except Exception:  # absent before 0.12, and not importable without Triton
        return
    if not hasattr(Sampler, "add_request"):  # its first versions keep no state per request
        return
    add, sample = Sampler.add_request, Sampler.sample
    names = list(inspect.signature(sample).parameters)

    def argument(name, self, args, kwargs):
        return kwargs[name] if name in kwargs else ((self, *args))[names.index(name)]

    def add_request(self, req_idx, *args, **kwargs):
        slots = self.__dict__.setdefault("_parity_check_forced", {})
        slots.pop(req_idx, None)
        params = kwargs.get("sampling_params", args[-1] if args else None)
        forced = _forced(params)
        if forced is not None:
            slots[req_idx] = forced
        return add(self, req_idx, *args, **kwargs)

    def forced_sample(self, *args, **kwargs):
        sampled, processed = sample(self, *args, **kwargs)
        slots = self.__dict__.get("_parity_check_forced")
        if slots:
            states = getattr(self, "req_states", None) or self.penalties_state.req_states
            positions = argument("pos", self, args, kwargs).tolist()
            rows = []
            for row, slot in enumerate(argument("idx_mapping_np", self, args, kwargs).tolist()):
                forced = slots.get(slot)
                step = positions[row] + 1 - int(states.prompt_len.np[slot])
                if forced is not None and 0 <= step < len(forced):
                    rows.append((row, forced[step]))
            _overwrite(sampled, rows)
        return sampled, processed

    Sampler.add_request, Sampler.sample = add_request, forced_sample
    patched.append("v1-runner-v2")


# --- scheduler ----------------------------------------------------------------------------------


def _observe_scheduler():
    """Record the scheduler's class, if it is created in this process; not for V0."""
    try:
        from vllm.v1.core.sched.scheduler import Scheduler
    except ImportError:
        return
    init = Scheduler.__init__

    def observed_init(self, *args, **kwargs):
        observed["scheduler"] = type(self).__name__
        init(self, *args, **kwargs)

    Scheduler.__init__ = observed_init


# --- lm_head ------------------------------------------------------------------------------------


def _observe_lm_head():
    """Record the dtype of the logits processor's output."""
    from vllm.model_executor.layers.logits_processor import LogitsProcessor

    forward = LogitsProcessor.forward

    def observed_forward(self, *args, **kwargs):
        logits = forward(self, *args, **kwargs)
        if logits is not None:
            observed["lm_head_dtype"] = str(logits.dtype).replace("torch.", "")
        return logits

    LogitsProcessor.forward = observed_forward


_fp32_heads = set()  # ids of the patched projections


HEAD_BUDGET = 1 << 28
"""Bytes of upcast weight that exist at a time; a head of 152k x 8k takes 5 GB as a whole."""


def _fp32_projection(hidden_states, weight):
    """Logits of the last dimension in float32: exact products, float32 sums."""
    hidden = hidden_states.reshape(-1, hidden_states.shape[-1])
    version = tuple(int(x) for x in torch.__version__.split("+")[0].split(".")[:2])
    if hidden.is_cuda and weight.dtype != torch.float32 and version >= (2, 8):
        logits = torch.mm(hidden, weight.t(), out_dtype=torch.float32)
    else:
        logits = _upcast_projection(hidden.float(), weight)
    return logits.reshape(*hidden_states.shape[:-1], -1)


def _upcast_projection(hidden, weight):
    """The same by upcasting the weight, a part of the vocabulary at a time."""
    rows = max(1, HEAD_BUDGET // (4 * weight.shape[1]))
    if weight.dtype == torch.float32 or len(weight) <= rows:
        return torch.nn.functional.linear(hidden, weight.float())
    logits = hidden.new_empty(len(hidden), len(weight))
    for start in range(0, len(weight), rows):
        part = weight[start : start + rows].float()
        logits[:, start : start + rows] = torch.nn.functional.linear(hidden, part)
    return logits


def _patch_fp32_head():
    from vllm.model_executor.layers.linear import UnquantizedLinearMethod
    from vllm.model_executor.layers.logits_processor import LogitsProcessor
    from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

    def _get_logits(self, hidden_states, lm_head, embedding_bias=None):
        if not isinstance(
            lm_head.quant_method, (UnquantizedEmbeddingMethod, UnquantizedLinearMethod)
        ):
            raise RuntimeError(
                "lm_head_dtype = float32 needs an unquantized lm_head, found "
                + type(lm_head.quant_method).__name__
            )
        _fp32_heads.add(id(lm_head))
        logits = _fp32_projection(hidden_states, lm_head.weight)
        if embedding_bias is not None:
            logits = logits + embedding_bias.float()
        logits = self._gather_logits(logits)
        return None if logits is None else logits[..., : self.org_vocab_size]

    LogitsProcessor._get_logits = _get_logits
    _patch_adapted_fp32_head(_get_logits)


def _patch_adapted_fp32_head(get_logits):
    """With LoRA enabled, another class projects; parity-check refuses adapters of the head."""
    for name in ("vllm.lora.layers.logits_processor", "vllm.lora.layers"):  # 0.8.5 has one file
        with contextlib.suppress(ImportError, AttributeError):
            adapted = importlib.import_module(name).LogitsProcessorWithLoRA
            break
    else:
        return

    def _get_logits(self, hidden_states, lm_head, embedding_bias=None):
        head = getattr(lm_head, "base_layer", lm_head)
        return get_logits(self.base_layer, hidden_states, head, embedding_bias)

    adapted._get_logits = _get_logits


# --- collectives --------------------------------------------------------------------------------


def _mend_cpu_collectives():
    """V0 on CPU needs shared-memory collectives, which a build without AVX-512 lacks."""
    try:
        from vllm.distributed.device_communicators import cpu_communicator as module
    except ImportError:
        return
    if hasattr(module, "_CPUSHMDistributed") and not hasattr(torch.ops._C, "init_shm_manager"):
        module._CPUSHMDistributed = lambda communicator: torch.distributed


# --- endpoints ----------------------------------------------------------------------------------

_random_state = {}


class ParityExtension(ModuleEndpoints, ProbeEndpoints, WeightEndpoints):
    """RPC endpoints; the prefix avoids collisions with the worker's own attributes."""

    def parity_check_observed(self):
        runner = self.model_runner
        model = runner.get_model() if hasattr(runner, "get_model") else runner.model
        modules = list(model.modules())
        # The model may be built with another base than its config says: read it from the model.
        bases = {m.base for m in modules if "RotaryEmbedding" in type(m).__name__}
        backends = {
            type(m.impl).__name__
            for m in modules
            if "Attention" in type(m).__name__ and hasattr(m, "impl")
        }
        # Both runners have the same name, in modules of other packages.
        bodies = {base.__module__ for base in type(runner).__mro__}
        return dict(
            observed,
            patched=list(patched),
            model_runner="v2" if "vllm.v1.worker.gpu.model_runner" in bodies else "v1",
            fp32_requested=FP32_REQUESTED,
            fp32_heads=len(_fp32_heads),
            rope_bases=sorted(bases),
            attention_backends=sorted(name.removesuffix("Impl") for name in backends),
        )

    def parity_check_keep_random_state(self):
        _random_state.update(
            torch=torch.get_rng_state(), numpy=np.random.get_state(), python=random.getstate()
        )
        if torch.cuda.is_available():
            _random_state["cuda"] = torch.cuda.get_rng_state()

    def parity_check_restore_random_state(self):
        torch.set_rng_state(_random_state["torch"])
        np.random.set_state(_random_state["numpy"])
        random.setstate(_random_state["python"])
        if "cuda" in _random_state:
            torch.cuda.set_rng_state(_random_state["cuda"])


_patch_v0()
_patch_v1_runner_v1()
_patch_v1_runner_v2()
_observe_scheduler()
_observe_lm_head()
_mend_cpu_collectives()
if FP32_REQUESTED:
    _patch_fp32_head()
