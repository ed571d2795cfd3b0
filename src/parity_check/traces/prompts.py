"""The user's prompts: JSONL, Parquet, CSV, plain text or a saved Hugging Face dataset.

Each is text, chat messages or token ids.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from parity_check.config.models import SHAPING, Config, Workload
from parity_check.errors import ConfigError, InputError, nearest
from parity_check.reading import (
    MOST_BYTES,
    parse_json,
    read_text,
    regular_file,
    spread,
    wrong_text,
    wrong_tree,
)
from parity_check.traces.pairing import label_column
from parity_check.traces.saved_dataset import data_files
from parity_check.traces.trace import Sample
from parity_check.visible import value as shown

ASSETS = Path(__file__).parents[1] / "assets"
CONTENT = ("prompt", "prompt_token_ids", "messages")
TEMPLATE = ("tools", "chat_template_kwargs")
"""What the chat template of `messages` gets besides them."""
NAMES = (*CONTENT, *TEMPLATE, "prompt_id", "prompt_group")
CHAT = "this is a chat: --prompt-column {}, and the chat template is applied"
USUAL = ("question", "problem", "instruction", "query", "input", "text", "content", "conversations")
"""What columns of prompts are called elsewhere; the first that a file has is suggested."""
NO_GROUP = "all"
"""The group of a prompt without one."""
A_LINE = "write one JSON object a line; of a list, jq -c '.[]' FILE makes that"
UNHEARD = ("documents", "functions", "images", "multi_modal_data", "response_format", "logit_bias")
"""Columns that change the prompt or the sampling in training, and that no engine here gets."""
MISSPELLED = 0.9
"""Smallest similarity of a column to a known one that is taken for a typo."""
RESERVED = tuple(each.name for each in fields(Sample))
"""Columns that a trace has anyway."""
LARGEST_ID = 2**31 - 1
LONGEST_NAME = 1000
MOST_TOKENS = 100_000_000
"""Of a workload, for one engine."""


class ColumnError(InputError):
    """None of the columns is known as that of the prompts, or several are.

    `columns` are those that may be chosen, the likeliest first.
    """

    def __init__(self, message: str, columns: Sequence[str], *, hint: str | None) -> None:
        super().__init__(message, hint=hint)
        self.columns = columns


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt; exactly one of `text`, `messages` and `token_ids` is given."""

    prompt_id: str
    group: str
    text: str | None
    messages: list[dict[str, Any]] | None
    token_ids: list[int] | None
    labels: Mapping[str, str | None] = field(default_factory=dict)
    """The other columns that hold one value, as text; every prompt of a file has all of them."""
    template: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the chat template: `tools`, and those of `chat_template_kwargs`."""

    def content(self) -> str:
        """The same for two prompts that engines cannot tell apart."""
        parts = (self.text, self.messages, self.token_ids, dict(self.template))
        return json.dumps(parts, sort_keys=True, default=str)


def bundled(reference: str, kind: str) -> Path | None:
    """The path of `bundled:NAME`, None for anything else. Raises InputError."""
    prefix, _, name = reference.partition(":")
    if prefix != "bundled":
        return None
    known = {
        "model": {name: ASSETS / name for name in ("tiny", "tiny-next")},
        "prompts": {name: ASSETS / f"{name}.jsonl" for name in ("prompts", "more-prompts")},
    }
    if name not in known[kind]:
        names = ", ".join(f"bundled:{each}" for each in known[kind])
        raise InputError(f"{reference}: no such bundled {kind}", hint=f"expected one of: {names}")
    return known[kind][name]


def read_workload(workload: Workload, *, looks: bool = False) -> list[Prompt]:
    """The prompts of a workload of bounded size. Raises InputError, ConfigError.

    `looks` are made by the command; without them, a number of prompts is needed.
    """
    if workload.num_prompts == "enough":
        if not looks:
            raise fixed_number_needed()
        return read_prompts(workload.prompts, column=workload.prompt_column)
    prompts = read_prompts(workload.prompts, workload.num_prompts, workload.prompt_column)
    tokens = workload.tokens(len(prompts))
    if tokens > MOST_TOKENS:
        raise ConfigError(
            f"workload: {len(prompts):,} prompts × {workload.samples_per_prompt:,} samples × "
            f"{workload.max_tokens:,} tokens, sampled, replayed and repeated {workload.repeats:,} "
            f"times, are up to {tokens:,} tokens an engine; the most is {MOST_TOKENS:,}",
            hint="lower num_prompts, samples_per_prompt, max_tokens or repeats",
        )
    return prompts


def fixed_number_needed() -> ConfigError:
    """The error of a command that samples once, or not at all."""
    return ConfigError(
        'workload.num_prompts: "enough" is only for `compare` with an engine that samples',
        hint="--set workload.num_prompts=96, or any other number",
    )


def check_clusters(prompts: Sequence[Prompt], config: Config) -> None:
    """Raises ConfigError if `stats.cluster_by` names a column that the prompts do not have."""
    column = label_column(config.stats.cluster_by)
    if column is not None and not any(column in prompt.labels for prompt in prompts):
        known = ", ".join(("prompt", "group", "sample", *prompts[0].labels))
        raise ConfigError(
            f"stats.cluster_by: {config.workload.prompts} has no column {column!r}",
            hint=f"one of: {known}; for example --set stats.cluster_by=prompt",
        )
    if config.stats.cluster_by == "group" and {prompt.group for prompt in prompts} == {NO_GROUP}:
        raise ConfigError(
            f"stats.cluster_by: {config.workload.prompts} has no column `prompt_group`, so all "
            "prompts are one cluster",
            hint="add the column, or --set stats.cluster_by=prompt",
        )


def cluster_of(prompt: Prompt, cluster_by: str) -> str:
    """The cluster of a prompt, as that of its samples in a trace, unless it is the sample."""
    if cluster_by == "group":
        return prompt.group
    label = prompt.labels.get(cluster_by)
    return own_cluster(prompt) if label is None else label


def own_cluster(prompt: Prompt) -> str:
    """The cluster of a prompt that shares none."""
    return f"prompt {prompt.prompt_id}"


def read_prompts(source: str, limit: int | None = None, column: str | None = None) -> list[Prompt]:
    """Read and check all prompts. Raises InputError with file and line.

    `column` is where the prompt is, if not in one of the usual columns; of any kind of content.
    """
    path = bundled(source, "prompts") or Path(source)
    reader = _dataset_rows if path.is_dir() else READERS.get(path.suffix.lower(), _jsonl_rows)
    if column is not None and reader is _text_rows:
        raise InputError(
            f"{path}: plain text has no columns, but prompt_column is {shown(column)}",
            hint="leave it out: every line is a prompt",
        )
    rows = enumerate(reader(path))
    every = [_prompt(row, place, number, column) for number, (place, row) in rows]
    # A column that the first prompts leave empty is one of theirs too.
    names = sorted({name for prompt in every for name in prompt.labels})
    prompts = [
        replace(prompt, labels={name: prompt.labels.get(name) for name in names})
        for prompt in every[:limit]
    ]
    if not prompts:
        raise InputError(f"{path}: no prompts")
    [(most_common, count)] = Counter(prompt.prompt_id for prompt in prompts).most_common(1)
    if count > 1:
        raise InputError(f"{path}: prompt_id `{most_common}` occurs {count} times")
    return prompts


def _jsonl_rows(path: Path) -> Iterator[tuple[str, Any]]:
    text = read_text(path, "the prompts")
    if spread(text):
        raise InputError(f"{path}: one JSON document over several lines", hint=A_LINE)
    # Not splitlines: a JSON string may contain U+2028 and the like unescaped.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            place = f"{path}, line {number}"
            yield place, parse_json(line, place)


def _parquet_rows(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow.parquet as pq

    return _table_rows(path, pq.read_table, "a Parquet file")


def _dataset_rows(folder: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow.ipc

    for path in data_files(folder):
        yield from _table_rows(
            path, lambda file: pyarrow.ipc.open_stream(file).read_all(), "an Arrow file"
        )


def _table_rows(
    path: Path, read: Callable[[io.BufferedReader], Any], kind: str
) -> Iterator[tuple[str, Any]]:
    """The rows of a file that is one table. Raises InputError."""
    import pyarrow as pa

    regular_file(path, "the prompts", MOST_BYTES)
    try:
        with path.open("rb") as file:
            table = read(file)
        table.validate(full=True)
        twice = len(set(table.column_names)) < table.num_columns
        rows = [] if twice else table.to_pylist()
    except pa.ArrowInvalid as error:
        reason = "not UTF-8" if "UTF8" in str(error) else f"not {kind}, or truncated"
        raise InputError(f"{path}: {reason}") from None
    except (OSError, pa.ArrowException, ValueError, OverflowError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"cannot read the prompts {path}: {reason}") from None
    if twice:
        raise InputError(f"{path}: two columns of one name")
    for number, row in enumerate(rows):
        yield f"{path}, row {number}", row


def _csv_rows(path: Path, delimiter: str = ",") -> Iterator[tuple[str, Any]]:
    """A row a prompt, under a line with the names of the columns; an empty cell is none."""
    text = io.StringIO(read_text(path, "the prompts"), newline="")
    reader = csv.DictReader(text, strict=True, delimiter=delimiter)
    try:
        counts = Counter(reader.fieldnames or ())
        if twice := next((name for name in NAMES if counts[name] > 1), None):
            raise InputError(f"{path}: two columns are called `{twice}`")
        for row in reader:
            place = f"{path}, line {reader.line_num}"
            if None in row:
                raise InputError(f"{place}: more cells than columns")
            yield place, {name: value or None for name, value in row.items()}
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: not valid CSV: {error}") from None


def _text_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """A line a prompt."""
    text = read_text(path, "the prompts")
    if "\0" in text:
        raise InputError(f"{path}: not a text file: it holds zero bytes")
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"{path}, line {number}", {"prompt": line.removesuffix("\r")}


READERS: Mapping[str, Callable[[Path], Iterator[tuple[str, Any]]]] = {
    ".parquet": _parquet_rows,
    ".csv": _csv_rows,
    ".tsv": partial(_csv_rows, delimiter="\t"),
    ".txt": _text_rows,
}
"""By suffix; anything else is JSON lines."""


def _prompt(row: Any, place: str, number: int, column: str | None) -> Prompt:
    if not isinstance(row, dict):
        raise InputError(
            f"{place}: expected an object with one of {', '.join(CONTENT)}",
            hint=A_LINE if isinstance(row, list) else None,
        )
    names = list(row)
    row = {name: value for name, value in row.items() if value is not None}
    given = [name for name in CONTENT if name in row] if column is None else [column]
    if len(given) != 1 or given[0] not in row:
        raise _not_one(given, names, place, column)
    [name] = given
    value = row[name]
    if not value:
        raise InputError(f"{place}: `{name}` is empty")
    kind = name if column is None else _content_of(value)
    _check_type(kind, value, place, name)
    row = {kind: value, **{each: row[each] for each in row if each not in (name, *CONTENT)}}
    _check_columns(row, place)
    return Prompt(
        prompt_id=_name(row.get("prompt_id", f"p{number:04d}"), "prompt_id", place),
        group=_name(row.get("prompt_group", NO_GROUP), "prompt_group", place),
        text=row.get("prompt"),
        messages=row.get("messages"),
        token_ids=row.get("prompt_token_ids"),
        labels=_labels(row),
        template=_template(row, place),
    )


def _not_one(given: list[str], names: list[str], place: str, column: str | None) -> InputError:
    """Why a row has no prompt: which columns it has, and how to choose one."""
    empty = [name for name in CONTENT if name in names] if column is None else [column]
    if len(given) < 2 and set(empty) & set(names):
        return InputError(f"{place}: `{empty[0]}` is empty")
    columns = ", ".join(shown(each).strip("'") for each in names) or "none"
    near = nearest(column or "prompt", names)
    if column is not None:
        return InputError(
            f"{place}: no column {shown(column)}; its columns: {columns}",
            hint=f"did you mean {near}?" if near else "prompt_column takes one of its columns",
        )
    if given:
        return ColumnError(
            f"{place}: needs exactly one of {', '.join(CONTENT)} (found {' and '.join(given)})",
            given,
            hint=_choose(given[0]),
        )
    lower = {each.lower(): each for each in names}
    likely = near or next((lower[each] for each in USUAL if each in lower), None)
    message = (
        f"{place}: no column {', '.join(CONTENT[:-1])} or {CONTENT[-1]}; its columns: {columns}"
    )
    if not names:
        return InputError(message)
    if len(names) == 1 and any(mark in names[0] for mark in ";\t"):
        return InputError(message, hint="separate the cells by commas")
    ordered = sorted(names, key=lambda name: name != likely)
    return ColumnError(message, ordered, hint=_choose(likely or "NAME"))


def _choose(name: str) -> str:
    """How a column is named as that of the prompts."""
    key = f'prompt_column = "{name}"'
    return f"--prompt-column {name}, or {key} next to `prompts` in the configuration"


def _content_of(value: Any) -> str:
    """What a chosen column holds, as the column that it would be."""
    if not isinstance(value, list):
        return "prompt"
    return "prompt_token_ids" if all(map(_is_token_id, value)) else "messages"


def _check_columns(row: Mapping[str, Any], place: str) -> None:
    """Reject what would change the prompt or the sampling, and would be ignored."""
    for name in row:
        if name in SHAPING or name in ("max_tokens", "seed", "stop"):
            raise InputError(
                f"{place}: `{name}` of a single prompt is not supported",
                hint=f"set workload.{name} for all prompts, or rename the column"
                if name in Workload.model_fields
                else "rename the column if it is a label",
            )
        if name in UNHEARD:
            raise InputError(
                f"{place}: `{name}` is not supported: the engines would get another prompt",
                hint="pass `prompt_token_ids` of the whole prompt, or rename the column",
            )
        if name not in (*NAMES, *RESERVED):
            near = nearest(name, NAMES, MISSPELLED)
            if near is not None:
                raise InputError(f"{place}: unknown column `{name}` (did you mean `{near}`?)")


def _template(row: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The arguments of the chat template."""
    given = [name for name in TEMPLATE if name in row]
    if given and "messages" not in row:
        raise InputError(f"{place}: `{given[0]}` is for a chat template, and needs `messages`")
    for name, kind in zip(TEMPLATE, (list, dict), strict=True):
        if name in row and not isinstance(row[name], kind):
            wanted = "a list of functions" if kind is list else "an object"
            raise InputError(f"{place}: `{name}` must be {wanted}")
        reason = wrong_tree(row[name]) or _not_json(row[name]) if name in row else None
        if reason is not None:
            raise InputError(f"{place}: `{name}` holds what no template takes: {reason}")
    tools = {"tools": row["tools"]} if "tools" in row else {}
    return {**tools, **row.get("chat_template_kwargs", {})}


def _labels(row: Mapping[str, Any]) -> dict[str, str]:
    """The columns of short text and of numbers that are no content and no column of a trace."""
    return {
        name: str(value)
        for name, value in row.items()
        if name not in (*CONTENT, *TEMPLATE, *RESERVED)
        and isinstance(value, str | int | float)
        and len(str(value)) <= LONGEST_NAME
        and not wrong_text(str(value))
    }


def _name(value: Any, name: str, place: str) -> str:
    if type(value) not in (str, int) or not 0 < len(text := str(value)) <= LONGEST_NAME:
        raise InputError(
            f"{place}: `{name}` must be a string of 1 to {LONGEST_NAME} characters, or an integer"
        )
    if wrong_text(text):
        raise InputError(f"{place}: `{name}` must be a string of valid Unicode")
    return text


def _check_type(kind: str, value: Any, place: str, name: str) -> None:
    """Check content of a kind; `name` is what its column is called."""
    if kind == "prompt":
        fits, wanted = isinstance(value, str) and not wrong_text(value), "a string of valid Unicode"
    elif kind == "prompt_token_ids":
        fits = isinstance(value, list) and all(map(_is_token_id, value))
        wanted = "a list of token ids"
    else:
        fits = isinstance(value, list) and all(map(_is_message, value))
        wanted = "a list of chat messages, each with a role and content"
        reason = wrong_tree(value) or _not_json(value) if fits else None
        if reason is not None:
            raise InputError(f"{place}: `{name}` holds what no chat message has: {reason}")
    if not fits:
        hint = CHAT.format(name) if kind == "prompt" and _is_chat(value) else None
        if kind == "messages" and isinstance(value, list) and _is_sharegpt(value[0]):
            hint = "rename `from` and `value` of each message to `role` and `content`"
        raise InputError(f"{place}: `{name}` must be {wanted}", hint=hint)


def _is_chat(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_message, value))


def _is_message(value: Any) -> bool:
    """Whether a chat template can read it; an assistant may call tools without saying anything."""
    if not isinstance(value, dict) or not isinstance(value.get("role"), str):
        return False
    return not {"content", "tool_calls", "function_call"}.isdisjoint(value)


def _is_sharegpt(value: Any) -> bool:
    return isinstance(value, dict) and {"from", "value"} <= value.keys()


def _is_token_id(value: Any) -> bool:
    return type(value) is int and 0 <= value <= LARGEST_ID


def _not_json(value: Any) -> str | None:
    """What a worker could not be sent; None where there is nothing. The depth is bounded."""
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return next(filter(None, map(_not_json, inner)), None)
    if isinstance(value, float):
        return None if math.isfinite(value) else "a number that is not finite"
    return None if value is None or isinstance(value, str | int) else f"a {type(value).__name__}"
