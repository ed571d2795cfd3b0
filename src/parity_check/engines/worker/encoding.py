"""Convert prompts to token ids, for every engine with a transformers tokenizer."""

from failures import WorkerFailure


def encode(tokenizer, request):
    """Token ids of one request {prompt_id, text | messages, template}."""
    if request.get("messages") is None:
        return list(tokenizer.encode(request["text"]))
    try:
        text = tokenizer.apply_chat_template(
            request["messages"],
            tokenize=False,
            **{"add_generation_prompt": True, **(request.get("template") or {})},
        )
    except Exception as error:
        lines = (str(error).strip() or type(error).__name__).splitlines()
        raise WorkerFailure(
            "bad_prompt", f"prompt {request['prompt_id']}: the chat template failed: {lines[0]}"
        ) from error
    return list(tokenizer.encode(text, add_special_tokens=False))
