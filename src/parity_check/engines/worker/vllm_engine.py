"""A vLLM engine, V0 or V1, since 0.8.5."""

import contextlib
import difflib
import json
import re
import sys
import time
import traceback
from importlib.util import find_spec
from pathlib import Path

import effective
import proofs
import ranks
import rollouts
import weight_sync
from columns import logprob_columns
from effective import plain
from encoding import encode
from failures import WorkerFailure
from proofs import FORCED
from requested import own_head, read_tensors, variables, without_effect

SETTINGS = ("logprobs_mode", "enable_prefix_caching", "async_scheduling", "lm_head_dtype")
NEUTRAL_PENALTIES = {
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
}
NEUTRAL_TRUNCATION = {"top_p": 1.0, "top_k": -1, "min_p": 0.0}


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


def declared():
    """The environment variables that this version declares."""
    from vllm import envs

    return set(envs.environment_variables)


def check_arguments(engine_args):
    """Reject arguments that this version does not have or that break forced decode."""
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
        raise WorkerFailure("unsupported", "forced decode requires `num_scheduler_steps = 1`")
    if engine_args.get("distributed_executor_backend") == "ray" and find_spec("ray") is None:
        raise WorkerFailure(
            "missing_package",
            f'distributed_executor_backend = "ray" needs ray, which is not in {sys.prefix}',
        )


def check_device():
    """Refuse an engine that would start on no device, with an error about something else."""
    from vllm.platforms import current_platform

    if not current_platform.device_type:
        raise WorkerFailure("no_device", "this build of vLLM finds no device that it runs on")


def inspect_models_in_process():
    """0.8.5 inspects the model class in a new process, which costs 6 to 14 s per start."""
    from vllm.model_executor.models import registry

    if hasattr(registry, "_run_in_subprocess") and hasattr(registry, "_LazyRegisteredModel"):
        registry._LazyRegisteredModel.inspect_model_cls = lambda self: (
            registry._ModelInfo.from_model_cls(self.load_model_cls())
        )


def lora_request(adapter):
    """The adapter as vLLM takes it with each request; None without one."""
    if adapter is None:
        return None
    from vllm.lora.request import LoRARequest

    return LoRARequest("adapter", 1, adapter["path"])


def is_layer(name):
    """Whether a module is a whole decoder layer."""
    return re.search(r"\b(layers|h|blocks)\.\d+$", name) is not None


def load_failure(error):
    """The typed failure for an exception that vLLM raised during start."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, MemoryError):
        return WorkerFailure("out_of_memory", first_line(text))
    if "unquantized lm_head" in text.lower():  # raised by vLLM and by the extension
        return WorkerFailure("setting_not_applied", first_line(text))
    if isinstance(error, (TypeError, ValueError)):  # pydantic's ValidationError is a ValueError
        return WorkerFailure("bad_engine_args", first_line(text))
    return WorkerFailure("load_failed", first_line(text))


@contextlib.contextmanager
def failures_named():
    """Turn exceptions of vLLM's start into typed failures, and log their tracebacks."""
    try:
        yield
    except WorkerFailure:
        raise
    except Exception as error:
        traceback.print_exc()
        raise load_failure(error) from error


def first_line(text):
    """The first non-empty line; for a pydantic error, also the lines with the reason."""
    lines = [line.strip() for line in text.partition(" [type=")[0].splitlines() if line.strip()]
    return " ".join(lines[:3]) if "validation error" in lines[0] else lines[0]


class VllmEngine:
    """Loads on construction. Raises WorkerFailure if it cannot load as requested."""

    def __init__(self, command):
        vllm = import_vllm()
        from vllm.platforms import current_platform

        engine_args = command["engine_args"]
        check_device()
        check_arguments(engine_args)
        inspect_models_in_process()
        with failures_named():
            self.llm = vllm.LLM(**engine_args)
        self.loaded_adapter = command["adapter"]
        self.adapter = lora_request(self.loaded_adapter)
        self.arguments = engine_args
        self.engine = self.llm.llm_engine
        self.config = self.engine.vllm_config
        self.model_config = self.config.model_config
        self.version, self.package = vllm.__version__, Path(vllm.__file__).parent
        self.release = tuple(int(part) for part in re.findall(r"\d+", self.version)[:3])
        self.device = current_platform.device_type
        self.family = "v1" if type(self.engine).__module__.startswith("vllm.v1") else "v0"
        wanted = command["family"]
        if wanted and wanted != self.family:
            raise WorkerFailure(
                "wrong_family",
                f"vLLM {self.version} started its {self.family.upper()} engine, but "
                f"{wanted.upper()} was requested",
            )
        self.tokenizer = self.llm.get_tokenizer()
        self._counter, self._rollouts = 0, None
        self.check_platform()
        self.check_capacity("the self-check of the settings", 2 * proofs.STEPS)
        started = time.perf_counter()
        with failures_named():  # the first tokens that the engine computes
            self.settings = proofs.self_check(self)
            proofs.check_adapter(self)
        self.self_check_s = round(time.perf_counter() - started, 3)
        self.check_settings(command["settings"])

    # --- what is in force -----------------------------------------------------------------------

    def observed(self):
        """What the extension observed in the worker processes, which must agree."""
        answers = self.llm.collective_rpc("parity_check_observed")
        found = ranks.agreed(answers)
        core = getattr(getattr(self.engine, "engine_core", None), "engine_core", None)
        if core is not None:  # the engine is stepped in this process, which builds no model
            found["scheduler"] = type(core.scheduler).__name__
        return dict(found, ranks=len(answers))

    def check_platform(self):
        """Reject a prefix cache that would crash the engine at its first prefill."""
        limit = proofs.platform_limit(
            "enable_prefix_caching", self.family, self.device, self.release
        )
        if limit and self.config.cache_config.enable_prefix_caching:
            raise WorkerFailure(
                "setting_not_applied",
                f"enable_prefix_caching = true was requested, but false is in force ({limit})",
            )

    def kv_capacity(self):
        """Tokens of one request that the KV cache holds; V1 keeps one block for itself.

        vLLM compares its own choice with max_model_len, but V1 not `num_gpu_blocks_override`.
        """
        cache = self.config.cache_config
        if self.family == "v0" or cache.num_gpu_blocks_override is None:
            return self.model_config.max_model_len
        return max(0, cache.num_gpu_blocks_override - 1) * cache.block_size

    def check_capacity(self, what, tokens):
        """Refuse a request that would never be scheduled: vLLM lets it wait for ever."""
        capacity = self.kv_capacity()
        if tokens > capacity:
            raise WorkerFailure(
                "kv_cache_too_small",
                f"the KV cache holds {capacity} tokens of one request, {what} needs {tokens}",
            )

    def check_settings(self, requested):
        for name in SETTINGS:
            wanted, (found, proof) = requested[name], self.settings[name]
            if wanted == "default" or wanted == found:
                continue
            if name == "lm_head_dtype" and wanted == self.dtype():
                continue  # a float32 model has a float32 head
            raise WorkerFailure(
                "setting_not_applied",
                f"{name} = {json.dumps(wanted)} was requested, but {json.dumps(found)} is in force "
                f"({proof})",
            )

    def configured_logprobs_mode(self):
        """The mode in the engine's config; V0 has no such field and always processes."""
        if self.family == "v0":
            return "processed_logprobs"
        return plain(getattr(self.model_config, "logprobs_mode", "raw_logprobs"))

    def dtype(self):
        return plain(self.model_config.dtype)

    def vocabulary_size(self):
        return self.model_config.get_vocab_size()

    def model_runner(self, observed):
        """v0, v1 or v2: before 0.22 the configuration does not say, so the worker was looked at."""
        return "v0" if self.family == "v0" else observed["model_runner"]

    def describe(self):
        found = effective.describe(self)
        built, backends = found["model"]["modules"], self.observed()["attention_backends"]
        found["model"]["without_effect"] = {
            **without_effect(self.arguments, self.config, built),
            **variables(effective.ENVIRONMENT, declared(), self.package, backends),
            **own_head(built, read_tensors(self.model_config.model)),
        }
        return found

    # --- text -----------------------------------------------------------------------------------

    def tokenize(self, requests, command, output):
        for request in requests:
            output.write(prompt_id=request["prompt_id"], token_ids=encode(self.tokenizer, request))

    def decode(self, ids):
        return [self.tokenizer.decode([token]) for token in ids]

    # --- sampling and scoring -------------------------------------------------------------------

    def sampling_params(self, **fields):
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY, **fields)

    def finished(self, requests, params, tick=lambda: None):
        """Run all requests as one batch; yield (request, output) in the order of completion.

        `tick` is called after every step, to show progress while no request finishes.
        """
        by_id = self.admit(requests, params)
        while self.engine.has_unfinished_requests():
            results = self.engine.step()
            tick()
            for result in results:
                if result.finished:
                    yield by_id[result.request_id], result

    def admit(self, requests, params):
        """Add requests to the engine; return {engine's request id: request}.

        Every request has the adapter, if there is one.
        """
        adapter = {} if self.adapter is None else {"lora_request": self.adapter}
        by_id = {}
        for request, request_params in zip(requests, params):
            self._counter += 1
            request_id = f"{self._counter}"
            by_id[request_id] = request
            self.engine.add_request(
                request_id,
                {"prompt_token_ids": request["prompt_token_ids"]},
                request_params,
                **adapter,
            )
        return by_id

    def check_tokens(self, requests, new_tokens):
        """Reject requests that are too long or have ids outside the vocabulary."""
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
            self.check_capacity(f"sample {request['sample_id']}", length)
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
                    f"sample {request['sample_id']}: the engine did not produce the forced tokens",
                )
            output.write(
                sample_id=request["sample_id"],
                **logprob_columns(tokens, completion.logprobs, command["top_logprobs"]),
            )

    def rescore(self, requests, command, output):
        """Score by prefill: read the prompt logprobs of prompt + completion."""
        self.check_rescore(command["sampling"])
        scored = [
            dict(
                request,
                prompt_token_ids=request["prompt_token_ids"] + request["completion_token_ids"],
                completion_token_ids=[],
            )
            for request in requests
        ]
        self.check_tokens(scored, 1)  # vLLM requires one new token
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

    def probe(self, requests, command, output):
        """Replay requests one at a time, with hooks that record what every module puts out."""
        self.check_tokens(requests, 0)
        if not self.model_config.enforce_eager:
            raise WorkerFailure("unsupported", "a probe needs `enforce_eager = true`")
        self.llm.collective_rpc("parity_check_probe_begin", args=(command["noise"],))
        path = str(output.beside(command["modules"]))
        try:
            for number, request in enumerate(requests):
                self.llm.collective_rpc("parity_check_probe_request", args=(number,))
                self.replay([request], command, output)
        finally:
            digests = self.llm.collective_rpc("parity_check_probe_end")
        kept = ranks.whole(digests, is_layer)
        dtypes = self.llm.collective_rpc("parity_check_probe_write", args=(path, kept))[0]
        return {"dtypes": dtypes}

    def weights(self):
        return weight_sync.weights(self)

    def weight_sync(self, requests, command, output):
        self.check_tokens(requests, command["max_tokens"])
        return weight_sync.Scenario(self, command, output).run(requests)

    def rollout(self, requests, command, output):
        if self._rollouts is None:
            self._rollouts = rollouts.Rollouts(self, command)
        return self._rollouts.run(requests, command, output)

    def check_rescore(self, sampling):
        """Reject a rescore whose prompt logprobs would have a different meaning."""
        changed = [name for name, value in NEUTRAL_PENALTIES.items() if sampling[name] != value]
        if self.settings["enable_prefix_caching"][0]:
            raise WorkerFailure("unsupported", "rescore requires enable_prefix_caching = false")
        if self.family == "v0":
            if changed:
                raise WorkerFailure(
                    "unsupported",
                    f"V0 does not apply {', '.join(changed)} to prompt logprobs: use replay",
                )
            return
        changed += [name for name, value in NEUTRAL_TRUNCATION.items() if sampling[name] != value]
        if sampling["temperature"] not in (0.0, 1.0):  # greedy logprobs are those of T = 1
            changed.append("temperature")
        if self.settings["logprobs_mode"][0] == "processed_logprobs" and changed:
            raise WorkerFailure(
                "unsupported",
                f"V1 returns raw prompt logprobs, without {', '.join(changed)}: use replay, "
                'or set logprobs_mode = "raw_logprobs"',
            )
