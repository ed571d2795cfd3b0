"""A vLLM engine, V0 or V1, from 0.8.5 to the newest."""

import difflib
import json
import os
import platform
import sys
import traceback

from failures import WorkerFailure

FORCED = "parity_check_forced"
SETTINGS = ("logprobs_mode", "enable_prefix_caching", "async_scheduling", "lm_head_dtype")
NEUTRAL_PENALTIES = {
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
}
NEUTRAL_TRUNCATION = {"top_p": 1.0, "top_k": -1, "min_p": 0.0}
ENVIRONMENT_PREFIXES = ("VLLM_", "NCCL_", "CUDA_", "TORCH", "OMP_", "LD_PRELOAD", "PARITY_CHECK_")
# As given: vllm sets more of its own when it is imported, some of them random.
ENVIRONMENT = {
    name: value
    for name, value in sorted(os.environ.items())
    if name.startswith(ENVIRONMENT_PREFIXES)
}


def import_vllm():
    try:
        import vllm
    except ImportError as error:
        raise WorkerFailure(
            "vllm_not_installed", f"{sys.executable} cannot import vllm: {error}"
        ) from error
    return vllm


def known_arguments():
    from vllm.engine.arg_utils import EngineArgs

    return set(EngineArgs.__dataclass_fields__)


def check_arguments(engine_args):
    """Refuse what this version does not know, and what forced decode cannot do."""
    known = known_arguments()
    for name in engine_args:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            suggestion = f" (did you mean `{close[0]}`?)" if close else ""
            raise WorkerFailure("bad_engine_args", f"unknown engine argument `{name}`{suggestion}")
    for name in ("speculative_config", "speculative_model"):
        if engine_args.get(name):
            raise WorkerFailure("unsupported", f"forced decode does not work with `{name}`")
    if engine_args.get("num_scheduler_steps", 1) != 1:
        raise WorkerFailure("unsupported", "forced decode needs `num_scheduler_steps = 1`")


def inspect_models_in_process():
    """0.8.5 inspects the model class in a fresh process, which costs it 6 to 14 s a start."""
    from vllm.model_executor.models import registry

    if hasattr(registry, "_run_in_subprocess") and hasattr(registry, "_LazyRegisteredModel"):
        registry._LazyRegisteredModel.inspect_model_cls = lambda self: (
            registry._ModelInfo.from_model_cls(self.load_model_cls())
        )


def load_failure(error):
    """The worker's word for an exception that vLLM raised while it started."""
    text = f"{type(error).__name__}: {error}"
    lowered = text.lower()
    if isinstance(error, MemoryError) or any(
        sign in lowered
        for sign in (
            "out of memory",
            "not enough memory",
            "can't allocate memory",
            "no available memory",
            "less than desired gpu memory",
            "larger than the maximum number of tokens",
            "cannot allocate memory",
        )
    ):
        return WorkerFailure("out_of_memory", first_line(text))
    if isinstance(error, (TypeError, ValueError)):  # pydantic's ValidationError is a ValueError
        return WorkerFailure("bad_engine_args", first_line(text))
    return WorkerFailure("load_failed", first_line(text))


def first_line(text):
    """The first line that says something; pydantic puts the reason on the lines behind it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines[:3]) if "validation error" in lines[0] else lines[0]


def plain(value):
    """A JSON-ready rendering of a config value."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if hasattr(value, "value") and type(value).__module__ != "builtins":  # an enum
        return plain(value.value) if isinstance(value.value, (int, str)) else str(value)
    return str(value).replace("torch.", "")


class VllmEngine:
    """Loads on construction; raises WorkerFailure when that cannot be done as asked."""

    def __init__(self, command):
        vllm = import_vllm()
        engine_args = command["engine_args"]
        check_arguments(engine_args)
        inspect_models_in_process()
        try:
            self.llm = vllm.LLM(**engine_args)
        except Exception as error:
            traceback.print_exc()
            raise load_failure(error) from error
        self.engine = self.llm.llm_engine
        self.config = self.engine.vllm_config
        self.model_config = self.config.model_config
        self.version = vllm.__version__
        self.family = "v1" if type(self.engine).__module__.startswith("vllm.v1") else "v0"
        wanted = command["family"]
        if wanted and wanted != self.family:
            raise WorkerFailure(
                "wrong_family",
                f"vLLM {self.version} started its {self.family.upper()} engine, "
                f"{wanted.upper()} was asked for",
            )
        self.tokenizer = self.llm.get_tokenizer()
        self._counter = 0
        self.warm_up()
        self.settings = self.read_settings()
        self.check_settings(command["settings"])

    # --- what is in force -----------------------------------------------------------------------

    def warm_up(self):
        """Two tokens: compiles what is compiled lazily, and shows the lm_head's dtype."""
        token = self.vocabulary_size() // 2
        requests = [{"sample_id": "warm-up", "prompt_token_ids": [token, token]}]
        params = self.sampling_params(temperature=1.0, max_tokens=2, logprobs=1, ignore_eos=True)
        for _ in self.finished(requests, [params]):
            pass

    def observed(self):
        """What the extension saw in the (first) worker process."""
        return self.llm.collective_rpc("parity_check_observed")[0]

    def read_settings(self):
        """The four parity settings as the live engine has them, with where that was read."""
        cache, scheduler = self.config.cache_config, self.config.scheduler_config
        observed = self.observed()
        head = observed["lm_head_dtype"]
        if self.family == "v0":
            mode = ("processed_logprobs", "V0 returns processed logprobs, always")
            asynchronous = (False, "V0 has no async scheduling")
        else:
            mode = (
                plain(getattr(self.model_config, "logprobs_mode", "raw_logprobs")),
                "model_config.logprobs_mode",
            )
            asynchronous = (
                bool(getattr(scheduler, "async_scheduling", False)),
                "scheduler_config.async_scheduling",
            )
        return {
            "logprobs_mode": mode,
            "enable_prefix_caching": (
                bool(cache.enable_prefix_caching),
                "cache_config.enable_prefix_caching",
            ),
            "async_scheduling": asynchronous,
            "lm_head_dtype": (
                "model" if head == self.dtype() else head,
                f"the projection's output is {head}",
            ),
        }

    def check_settings(self, requested):
        for name in SETTINGS:
            wanted, (found, source) = requested[name], self.settings[name]
            if wanted == "default" or wanted == found:
                continue
            if name == "lm_head_dtype" and wanted == self.dtype():
                continue  # a float32 model has a float32 head
            raise WorkerFailure(
                "setting_not_applied",
                f"{name} = {json.dumps(wanted)} was asked for, "
                f"{json.dumps(found)} is in force ({source})",
            )

    def dtype(self):
        return plain(self.model_config.dtype)

    def vocabulary_size(self):
        return self.model_config.get_vocab_size()

    def model_runner(self):
        if self.family == "v0":
            return "v0"
        return "v2" if getattr(self.config, "use_v2_model_runner", False) is True else "v1"

    def effective_config(self):
        """What the engine runs with, after its own defaults; public names of vLLM."""
        config = self.config
        compilation, parallel = config.compilation_config, config.parallel_config
        level = getattr(compilation, "mode", getattr(compilation, "level", None))
        graphs = getattr(compilation, "cudagraph_mode", None)
        return {
            "dtype": self.dtype(),
            "quantization": plain(self.model_config.quantization),
            "max_model_len": self.model_config.max_model_len,
            "seed": self.model_config.seed,
            "enforce_eager": bool(self.model_config.enforce_eager),
            # Until 0.11 a level, 0 for none; since then a mode with a name.
            "compilation": "NONE" if level in (0, None) else plain(getattr(level, "name", level)),
            "custom_ops": ",".join(getattr(compilation, "custom_ops", None) or []),
            "cudagraph_mode": "NONE" if graphs is None else plain(getattr(graphs, "name", graphs)),
            "max_num_seqs": config.scheduler_config.max_num_seqs,
            "max_num_batched_tokens": config.scheduler_config.max_num_batched_tokens,
            "enable_chunked_prefill": bool(
                getattr(
                    config.scheduler_config,
                    "enable_chunked_prefill",
                    getattr(config.scheduler_config, "chunked_prefill_enabled", False),
                )
            ),
            "block_size": config.cache_config.block_size,
            "kv_cache_dtype": plain(config.cache_config.cache_dtype),
            "tensor_parallel_size": parallel.tensor_parallel_size,
            "pipeline_parallel_size": parallel.pipeline_parallel_size,
            "model_runner": self.model_runner(),
            "batch_invariant": os.environ.get("VLLM_BATCH_INVARIANT", "0") == "1",
        }

    def describe(self):
        import torch
        import transformers
        from vllm.platforms import current_platform

        rope_bases = self.observed()["rope_bases"]
        return {
            "backend": "vllm",
            "version": self.version,
            "family": self.family,
            "packages": {
                "vllm": self.version,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "python": platform.python_version(),
            },
            "platform": current_platform.device_type,
            "device": current_platform.get_device_name(),
            "settings": {
                name: {"in_force": value, "proof": source}
                for name, (value, source) in self.settings.items()
            },
            "config": self.effective_config(),
            "environment": ENVIRONMENT,
            "model": {
                "rope_theta": rope_bases[0] if len(rope_bases) == 1 else None,
                "vocab_size": self.vocabulary_size(),
                "max_model_len": self.model_config.max_model_len,
                "architectures": list(
                    getattr(self.model_config.hf_config, "architectures", None) or []
                ),
            },
        }

    # --- text -----------------------------------------------------------------------------------

    def tokenize(self, requests, command, output):
        for request in requests:
            if request.get("messages") is not None:
                try:
                    text = self.tokenizer.apply_chat_template(
                        request["messages"], tokenize=False, add_generation_prompt=True
                    )
                except Exception as error:
                    raise WorkerFailure(
                        "bad_prompt",
                        f"prompt {request['prompt_id']}: the chat template failed: "
                        + first_line(str(error) or type(error).__name__),
                    ) from error
                ids = self.tokenizer.encode(text, add_special_tokens=False)
            else:
                ids = self.tokenizer.encode(request["text"])
            output.write(prompt_id=request["prompt_id"], token_ids=list(ids))

    def decode(self, ids):
        return [self.tokenizer.decode([token]) for token in ids]

    # --- sampling and scoring -------------------------------------------------------------------

    def sampling_params(self, **fields):
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY, **fields)

    def finished(self, requests, params, tick=lambda: None):
        """Run all requests as one batch; yield (request, output) in the order of completion.

        `tick` is called after every step, a sign of life while no request finishes.
        """
        by_id = {}
        for request, request_params in zip(requests, params):
            self._counter += 1
            request_id = f"{self._counter}"
            by_id[request_id] = request
            self.engine.add_request(
                request_id, {"prompt_token_ids": request["prompt_token_ids"]}, request_params
            )
        while self.engine.has_unfinished_requests():
            results = self.engine.step()
            tick()
            for result in results:
                if result.finished:
                    yield by_id[result.request_id], result

    def check_tokens(self, requests, new_tokens):
        """Refuse what would not fit: lengths in tokens, ids in [0, vocabulary size)."""
        limit, vocabulary = self.model_config.max_model_len, self.vocabulary_size()
        for request in requests:
            prompt = request["prompt_token_ids"]
            completion = request.get("completion_token_ids") or []
            length = len(prompt) + (len(completion) or new_tokens)
            if length > limit:
                raise WorkerFailure(
                    "prompt_too_long",
                    f"sample {request['sample_id']}: {len(prompt)} prompt tokens + "
                    f"{length - len(prompt)} new tokens exceed the engine's max_model_len {limit}",
                )
            for token in (*prompt, *completion):
                if not 0 <= token < vocabulary:
                    raise WorkerFailure(
                        "token_out_of_vocabulary",
                        f"sample {request['sample_id']}: token id {token} is outside the "
                        f"vocabulary of {vocabulary}",
                    )

    def generate(self, requests, command, output):
        self.check_tokens(requests, command["max_tokens"])
        params = self.sampling_params(
            max_tokens=command["max_tokens"],
            ignore_eos=command["ignore_eos"],
            logprobs=command["top_logprobs"],
            **command["sampling"],
        )
        for request, result in self.finished(requests, [params] * len(requests), output.tick):
            completion = result.outputs[0]
            tokens = list(completion.token_ids)
            output.write(
                sample_id=request["sample_id"],
                token_ids=tokens,
                finish_reason=completion.finish_reason,
                text=self.tokenizer.decode(tokens),
                **logprob_columns(tokens, completion.logprobs, command["top_logprobs"]),
            )

    def replay(self, requests, command, output):
        self.check_tokens(requests, 0)
        params = [
            self.sampling_params(
                max_tokens=len(request["completion_token_ids"]),
                ignore_eos=True,
                logprobs=command["top_logprobs"],
                extra_args={FORCED: request["completion_token_ids"]},
                **command["sampling"],
            )
            for request in requests
        ]
        for request, result in self.finished(requests, params, output.tick):
            completion = result.outputs[0]
            tokens = list(completion.token_ids)
            if tokens != request["completion_token_ids"]:
                raise WorkerFailure(
                    "replay_mismatch",
                    f"sample {request['sample_id']}: the engine did not take the given tokens",
                )
            output.write(
                sample_id=request["sample_id"],
                **logprob_columns(tokens, completion.logprobs, command["top_logprobs"]),
            )

    def rescore(self, requests, command, output):
        """Score by prefill: prompt + completion go in as one prompt, its own logprobs come out."""
        self.check_rescore(command["sampling"])
        scored = [
            dict(
                request,
                prompt_token_ids=request["prompt_token_ids"] + request["completion_token_ids"],
                completion_token_ids=[],
            )
            for request in requests
        ]
        self.check_tokens(scored, 1)  # vLLM insists on one new token
        params = self.sampling_params(
            max_tokens=1, prompt_logprobs=command["top_logprobs"], **command["sampling"]
        )
        completions = {
            request["sample_id"]: request["completion_token_ids"] for request in requests
        }
        for request, result in self.finished(scored, [params] * len(scored), output.tick):
            tokens = completions[request["sample_id"]]
            columns = logprob_columns(
                tokens, result.prompt_logprobs[-len(tokens) :], command["top_logprobs"]
            )
            output.write(sample_id=request["sample_id"], **columns)

    def check_rescore(self, sampling):
        """Refuse where this version's prompt logprobs would mean something else than asked."""
        changed = [name for name, value in NEUTRAL_PENALTIES.items() if sampling[name] != value]
        if self.settings["enable_prefix_caching"][0]:
            raise WorkerFailure("unsupported", "rescore needs enable_prefix_caching = false")
        if self.family == "v0":
            if changed:
                raise WorkerFailure(
                    "unsupported",
                    f"V0 leaves {', '.join(changed)} out of prompt logprobs: replay instead",
                )
            return
        changed += [name for name, value in NEUTRAL_TRUNCATION.items() if sampling[name] != value]
        if sampling["temperature"] not in (0.0, 1.0):  # greedy logprobs are those of T = 1
            changed.append("temperature")
        if self.settings["logprobs_mode"][0] == "processed_logprobs" and changed:
            raise WorkerFailure(
                "unsupported",
                f"V1 returns raw prompt logprobs, without {', '.join(changed)}: replay instead, "
                'or set logprobs_mode = "raw_logprobs"',
            )


def logprob_columns(tokens, logprobs, top):
    """The given tokens' logprobs (None where the engine gave none), and the top-k by rank."""
    chosen, top_ids, top_logprobs = [], [], []
    for token, entries in zip(tokens, logprobs):
        entry = entries.get(token)
        chosen.append(None if entry is None else entry.logprob)
        ranked = sorted((e.rank, i, e.logprob) for i, e in entries.items() if e.rank is not None)
        top_ids.append([token_id for _, token_id, _ in ranked[:top]])
        top_logprobs.append([value for _, _, value in ranked[:top]])
    return {"logprobs": chosen, "top_token_ids": top_ids, "top_logprobs": top_logprobs}
