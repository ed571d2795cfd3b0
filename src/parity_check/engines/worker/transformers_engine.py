"""A trainer's forward pass: transformers scores given tokens by prefill, in batches.

The choices of a trainer are explicit in `engine_args`:

    dtype = "bfloat16"      of the body
    lm_head_dtype           "float32": hidden states and head weights are upcast before the product,
                            which keeps a tied head tied; "model": the product is the body's dtype
    attention = "sdpa"      transformers' attn_implementation
    temperature = true      logits are divided by the temperature of the request
    truncation = false      min_p, top_k and top_p mask logits, in V1's order; no penalty ever does
    layout = "padded"       samples of a batch as rows, padded to the longest; or "packed" into one
    samples_per_batch, tokens_per_batch       the batch shape; padding counts
    device = "cpu"

Logits are upcast to float32 before temperature and softmax. `rescore` accepts a different
`samples_per_batch`, because a trainer's noise comes from the batch shape. `generate` samples one
token at a time through the KV cache, one sample after another: slow but simple.
"""

import platform
import sys
import traceback
import types

import adapters
import batch_shape
from effective import ENVIRONMENT, adds_bos, checkpoint_defaults, listed
from encoding import encode
from failures import WorkerFailure
from proofs import GRID_BITS, TOP, on_grid

PROBE = [(100 + 37 * place) for place in range(16)]
PENALTIES = {"presence_penalty": 0.0, "frequency_penalty": 0.0, "repetition_penalty": 1.0}
GREEDY = 0.0
TRUNCATIONS = {"top_p": 1.0, "top_k": -1, "min_p": 0.0}


def import_transformers():
    try:
        import torch
        import transformers
    except ImportError as error:
        raise WorkerFailure(
            "transformers_not_installed",
            f"{sys.executable} cannot import torch and transformers: {error}",
        ) from error
    return torch, transformers


def first_line(error):
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


class Head:
    """An lm_head that only projects selected positions, as trainers skip the prompt."""

    def __init__(self, linear, upcast):
        import torch

        if not torch.is_floating_point(linear.weight):
            raise WorkerFailure(
                "setting_not_applied", f"the lm_head is quantized ({linear.weight.dtype})"
            )
        self.upcast = upcast
        self.weight = linear.weight.detach().float() if upcast else linear.weight
        self.bias = None
        if getattr(linear, "bias", None) is not None:
            self.bias = linear.bias.detach().float() if upcast else linear.bias
        self.rows = self.columns = None

    def __call__(self, hidden):
        import torch

        chosen = hidden[self.rows, self.columns]
        return torch.nn.functional.linear(
            chosen.float() if self.upcast else chosen, self.weight, self.bias
        )


class TransformersEngine:
    """Loads on construction. Raises WorkerFailure if it cannot load as requested."""

    def __init__(self, command):
        self.torch, self.transformers = import_transformers()
        self.arguments = types.SimpleNamespace(**command["engine_args"])
        self.version = self.transformers.__version__
        self.model = self.load_model()
        self.adapter = command["adapter"]
        if self.adapter is not None:
            adapters.attach(self.model, self.adapter)
        linear = self.model.get_output_embeddings()
        self.head = linear.forward = Head(linear, self.arguments.lm_head_dtype == "float32")
        self.tokenizer = self.transformers.AutoTokenizer.from_pretrained(
            self.arguments.model, revision=self.arguments.revision
        )
        self.generator = self.torch.Generator(self.arguments.device)
        self.generator.manual_seed(self.arguments.seed)
        self.settings = self.prove()

    def check_attention(self):
        """Refuse an attention that leaves a part of the architecture out, without an error."""
        arguments = self.arguments
        try:
            config = self.transformers.AutoConfig.from_pretrained(
                arguments.model, revision=arguments.revision
            )
        except (OSError, ValueError) as error:
            raise WorkerFailure("load_failed", first_line(error)) from error
        cap = getattr(config.get_text_config(), "attn_logit_softcapping", None)
        if cap and arguments.attention == "sdpa":
            raise WorkerFailure(
                "unsupported",
                f'attention = "sdpa" leaves out the soft cap of this model\'s attention logits '
                f'({cap:g}): set attention = "eager"',
            )

    def load_model(self):
        arguments, torch = self.arguments, self.torch
        if arguments.device.startswith("cuda") and not torch.cuda.is_available():
            raise WorkerFailure("unsupported", f"device = {arguments.device!r}: torch sees no GPU")
        # Renamed in transformers 4.56; the old name was removed in 5.
        release = tuple(int(part) for part in self.version.split(".")[:2])
        self.check_attention()
        dtype = "dtype" if release >= (4, 56) else "torch_dtype"
        try:
            model = self.transformers.AutoModelForCausalLM.from_pretrained(
                arguments.model,
                revision=arguments.revision,
                attn_implementation=arguments.attention,
                **{dtype: getattr(torch, arguments.dtype)},
            )
            return model.to(arguments.device).eval()
        except (MemoryError, torch.cuda.OutOfMemoryError) as error:
            raise WorkerFailure("out_of_memory", first_line(error)) from error
        except (OSError, ValueError, ImportError, RuntimeError) as error:
            traceback.print_exc()
            raise WorkerFailure("load_failed", first_line(error)) from error

    # --- what is in force -----------------------------------------------------------------------

    def prove(self):
        """{setting: (in force, proof)}; the lm_head is proved by its effect on fixed tokens."""
        vocabulary = self.model.config.vocab_size
        ids = [token % vocabulary for token in PROBE]
        logits = self.forward([(ids[:8], ids[8:])], "padded")
        output = str(logits.dtype).replace("torch.", "")
        top = min(TOP, vocabulary)
        rows = [
            dict(enumerate(row.topk(top).values.tolist())) for row in logits.float().log_softmax(-1)
        ]
        found, proof = output, f"the projection's output is {output}"
        if self.arguments.dtype in GRID_BITS:
            bits = GRID_BITS[self.arguments.dtype]
            near, count = on_grid(rows, bits)
            proof += f"; {near} of {count} top-k gaps are multiples of 2^-{bits}"
            proof += f" ({self.arguments.dtype}: all of them)"
            if near > count / 2:
                found = self.arguments.dtype
        wanted = self.arguments.lm_head_dtype
        in_force = "model" if found == self.arguments.dtype and wanted == "model" else found
        if in_force != wanted:
            raise WorkerFailure(
                "setting_not_applied",
                f"lm_head_dtype = {wanted!r} was requested, but {in_force!r} is in force ({proof})",
            )
        divided = self.arguments.temperature
        return {
            "logprobs_mode": (
                "processed_logprobs" if divided else "raw_logprobs",
                "the trainer divides its logits by the temperature"
                if divided
                else "the trainer does not scale its logits",
            ),
            "enable_prefix_caching": (False, "each sample is scored from its first token"),
            "async_scheduling": (False, "a trainer has no scheduler"),
            "lm_head_dtype": (in_force, proof),
        }

    def describe(self):
        arguments, torch, config = self.arguments, self.torch, self.model.config
        parameters = getattr(config, "rope_parameters", None) or {}
        on_gpu = arguments.device.startswith("cuda")
        return {
            "backend": "transformers",
            "version": self.version,
            "family": "trainer",
            "packages": {
                "torch": torch.__version__,
                "transformers": self.version,
                "python": platform.python_version(),
            },
            "platform": "cuda" if on_gpu else arguments.device,
            "device": torch.cuda.get_device_name(arguments.device) if on_gpu else "cpu",
            "settings": {
                name: {"in_force": value, "proof": proof}
                for name, (value, proof) in self.settings.items()
            },
            "config": {
                "dtype": str(next(self.model.parameters()).dtype).replace("torch.", ""),
                "attention": config._attn_implementation,
                "truncation": arguments.truncation,
                "layout": arguments.layout,
                "samples_per_batch": arguments.samples_per_batch,
                "tokens_per_batch": arguments.tokens_per_batch,
                "float32_matmul_precision": torch.get_float32_matmul_precision(),
                "max_model_len": self.longest(),
                "tied_embeddings": bool(getattr(config, "tie_word_embeddings", False)),
                "adds_bos": adds_bos(self.tokenizer),
                "adapter": None if self.adapter is None else self.adapter["label"],
            },
            "environment": ENVIRONMENT,
            "model": {
                "rope_theta": parameters.get("rope_theta", getattr(config, "rope_theta", None)),
                "vocab_size": config.vocab_size,
                "tokenizer_size": len(self.tokenizer),
                "max_model_len": self.longest(),
                "architectures": list(getattr(config, "architectures", None) or []),
                "sampling_defaults": listed(checkpoint_defaults(arguments)),
            },
        }

    def longest(self):
        return getattr(self.model.config, "max_position_embeddings", None)

    # --- text -----------------------------------------------------------------------------------

    def tokenize(self, requests, command, output):
        for request in requests:
            output.write(prompt_id=request["prompt_id"], token_ids=encode(self.tokenizer, request))

    def decode(self, ids):
        return [self.tokenizer.decode([token]) for token in ids]

    # --- scoring --------------------------------------------------------------------------------

    def check_tokens(self, requests, new_tokens):
        """Reject requests that are too long or have ids outside the vocabulary."""
        limit, vocabulary = self.longest(), self.model.config.vocab_size
        for request in requests:
            tokens = [*request["prompt_token_ids"], *(request.get("completion_token_ids") or [])]
            if limit is not None and len(tokens) + new_tokens > limit:
                raise WorkerFailure(
                    "prompt_too_long",
                    f"sample {request['sample_id']}: {len(tokens) + new_tokens} tokens exceed the "
                    f"model's {limit} positions",
                )
            for token in tokens:
                if not 0 <= token < vocabulary:
                    raise WorkerFailure(
                        "token_out_of_vocabulary",
                        f"sample {request['sample_id']}: token id {token} is outside the "
                        f"vocabulary of {vocabulary}",
                    )

    def forward(self, samples, layout):
        """Logits [n, vocabulary] of the completions of (prompt, completion) samples, in order."""
        arguments = self.arguments
        self.head.rows, self.head.columns = batch_shape.places(samples, layout)
        ids = [prompt + completion for prompt, completion in samples]
        if layout == "packed":
            inputs = batch_shape.packed(
                ids, arguments.device, arguments.attention, getattr(self.torch, arguments.dtype)
            )
        else:
            inputs = batch_shape.padded(ids, arguments.device)
        try:
            with self.inference():
                return self.model(**inputs, use_cache=False).logits
        except self.torch.cuda.OutOfMemoryError as error:
            raise WorkerFailure("out_of_memory", first_line(error)) from error

    def inference(self):
        """The context of a forward pass."""
        return self.torch.inference_mode()

    def tensor(self, rows):
        return self.torch.tensor(rows, device=self.arguments.device)

    def logprobs(self, logits, sampling):
        """The trainer's logprobs: float32 [n, vocabulary], -inf outside the support."""
        logits = logits.float()
        if self.arguments.temperature and sampling["temperature"] > 0:
            logits = logits / sampling["temperature"]
        if self.arguments.truncation and sampling["temperature"] > 0:
            logits = self.truncated(logits, sampling)
        return logits.log_softmax(-1)

    def truncated(self, logits, sampling):
        """Apply min_p, then top_k, then top_p."""
        inf = self.torch.inf
        if sampling["min_p"] > 0:
            probabilities = logits.softmax(-1)
            least = probabilities.amax(-1, keepdim=True) * sampling["min_p"]
            logits = logits.masked_fill(probabilities < least, -inf)
        if sampling["top_k"] > 0:
            kept = min(sampling["top_k"], logits.shape[-1])
            least = logits.topk(kept).values[:, -1:]
            logits = logits.masked_fill(logits < least, -inf)
        if sampling["top_p"] < 1:
            ordered, order = logits.sort(dim=-1, descending=True)
            probabilities = ordered.softmax(-1)
            cut = probabilities.cumsum(-1) - probabilities >= sampling["top_p"]
            logits = logits.masked_fill(cut.scatter(-1, order, cut), -inf)
        return logits

    def columns(self, logprobs, tokens, top):
        """The columns of a result: logprobs of the tokens, top-k, and entropy."""
        places = self.torch.arange(len(tokens), device=logprobs.device)
        chosen = logprobs[places, self.tensor(tokens)]
        best = logprobs.topk(top) if top else None
        return {
            "logprobs": chosen.tolist(),
            "top_token_ids": best.indices.tolist() if best else [[] for _ in tokens],
            "top_logprobs": best.values.tolist() if best else [[] for _ in tokens],
            "entropy": self.torch.special.entr(logprobs.exp()).sum(-1).tolist(),
        }

    def rescore(self, requests, command, output):
        self.check_tokens(requests, 0)
        arguments = self.arguments
        size = command.get("samples_per_batch") or arguments.samples_per_batch
        for batch in batch_shape.batches(
            requests, arguments.layout, size, arguments.tokens_per_batch
        ):
            samples = [
                (request["prompt_token_ids"], request["completion_token_ids"]) for request in batch
            ]
            logprobs = self.logprobs(self.forward(samples, arguments.layout), command["sampling"])
            lengths = [len(completion) for _, completion in samples]
            for request, part in zip(batch, logprobs.split(lengths)):
                output.write(
                    sample_id=request["sample_id"],
                    **self.columns(part, request["completion_token_ids"], command["top_logprobs"]),
                )

    def probe(self, requests, command, output):
        """Score requests one at a time, with hooks that record what every module puts out."""
        import trainer_probe  # needs torch, whose absence `load` reports

        self.check_tokens(requests, 0)
        if command["noise"]:
            raise WorkerFailure("unsupported", "a trainer is only probed without noise")
        with trainer_probe.Recorder(self.model) as recorder:
            for number, request in enumerate(requests):
                prompt, tokens = request["prompt_token_ids"], request["completion_token_ids"]
                logits = self.forward([(prompt, tokens)], self.arguments.layout)
                recorder.keep(number, prompt, tokens, logits)
                columns = self.columns(self.logprobs(logits, command["sampling"]), tokens, 0)
                output.write(sample_id=request["sample_id"], **columns)
        return {"dtypes": recorder.write(output.beside(command["modules"]))}

    def replay(self, requests, command, output):
        raise WorkerFailure("unsupported", "a trainer only scores by prefill: use rescore")

    # --- sampling -------------------------------------------------------------------------------

    def check_sampling(self, sampling):
        """Refuse to sample from a distribution that differs from the recorded one."""
        neutral = dict(PENALTIES)
        if not self.arguments.truncation:
            neutral.update(TRUNCATIONS)
        if not self.arguments.temperature:
            neutral["temperature"] = 1.0
        unsupported = [name for name, value in neutral.items() if sampling[name] != value]
        if unsupported and sampling["temperature"] != GREEDY:
            raise WorkerFailure(
                "unsupported",
                f"this trainer does not apply {', '.join(unsupported)}: it cannot sample with it",
            )

    def generate(self, requests, command, output):
        self.check_tokens(requests, command["max_tokens"])
        self.check_sampling(command["sampling"])
        ends = self.model.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends]) - {None}
        for request in requests:
            tokens, rows = self.sample(request["prompt_token_ids"], command, ends)
            output.write(
                sample_id=request["sample_id"],
                token_ids=tokens,
                finish_reason="stop" if tokens[-1] in ends else "length",
                text=self.tokenizer.decode(tokens),
                **self.columns(self.torch.cat(rows), tokens, command["top_logprobs"]),
            )

    def sample(self, prompt, command, ends):
        """The tokens of one completion, and a row of logprobs [1, vocabulary] for each."""
        tokens, rows, cache, ids = [], [], None, prompt
        self.head.rows, self.head.columns = [0], [-1]
        while len(tokens) < command["max_tokens"]:
            with self.torch.inference_mode():
                found = self.model(
                    input_ids=self.tensor([ids]), past_key_values=cache, use_cache=True
                )
            rows.append(self.logprobs(found.logits, command["sampling"]))
            if command["sampling"]["temperature"] == GREEDY:
                token = int(rows[-1].argmax())
            else:
                weights = rows[-1].exp()
                token = int(self.torch.multinomial(weights, 1, generator=self.generator))
            tokens.append(token)
            if token in ends and not command["ignore_eos"]:
                break
            cache, ids = found.past_key_values, [token]
        return tokens, rows
