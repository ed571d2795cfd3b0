"""The user's prompts: what is read, and the line that is at fault."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parity_check.errors import InputError
from parity_check.traces.prompts import Prompt, read_prompts

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


def written(path: Path, *rows: object) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return str(path)


def test_further_columns_are_labels(tmp_path: Path) -> None:
    further = {"family": "x", "level": 3, "tags": ["y"], "text": "own", "long": "z" * 1001}
    [prompt] = read_prompts(written(tmp_path / "p.jsonl", {"prompt": "a", **further}))
    assert prompt.labels == {"family": "x", "level": "3"}


def test_every_prompt_has_the_columns_of_the_file(tmp_path: Path) -> None:
    source = written(tmp_path / "p.jsonl", {"prompt": "a"}, {"prompt": "b", "family": "x"})
    assert [prompt.labels for prompt in read_prompts(source, 1)] == [{"family": None}]


def test_all_three_kinds(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "hi"}]
    source = written(
        tmp_path / "p.jsonl",
        {"prompt": "a", "prompt_id": "first", "prompt_group": "g"},
        {"prompt_token_ids": [0, 5]},
        {"messages": messages, "prompt": None, "prompt_id": None},
    )
    assert read_prompts(source) == [
        Prompt("first", "g", "a", None, None),
        Prompt("p0001", "all", None, None, [0, 5]),
        Prompt("p0002", "all", None, messages, None),
    ]


@given(st.lists(TEXT, min_size=1, max_size=5))
def test_any_text_survives(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    """JSON may hold U+2028, U+0085 and form feeds as they are: they end no line."""
    path = tmp_path_factory.mktemp("prompts") / "p.jsonl"
    source = written(path, *({"prompt": text} for text in texts))
    assert [prompt.text for prompt in read_prompts(source)] == texts


def test_parquet_reads_as_jsonl_does(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "é", "prompt_group": "g"},
        {"prompt_token_ids": [1, 2], "prompt_id": "x"},
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema([
        ("prompt", pa.string()), ("prompt_token_ids", pa.list_(pa.int64())),
        ("prompt_id", pa.string()), ("prompt_group", pa.string()),
    ])), tmp_path / "p.parquet")  # fmt: skip
    assert read_prompts(str(tmp_path / "p.parquet")) == read_prompts(
        written(tmp_path / "p.jsonl", *rows)
    )


def saved_dataset(folder: Path, *shards: list[dict[str, Any]]) -> str:
    """As `save_to_disk` writes it."""
    folder.mkdir()
    names = [f"data-{number:05}-of-{len(shards):05}.arrow" for number in range(len(shards))]
    for name, rows in zip(names, shards, strict=True):
        table = pa.Table.from_pylist(rows)
        with pa.ipc.new_stream(folder / name, table.schema) as stream:
            stream.write_table(table)
    state = {"_data_files": [{"filename": name} for name in names], "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    return str(folder)


def test_a_saved_dataset_reads_as_jsonl_does(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "é"}]
    rows: list[dict[str, Any]] = [{"messages": chat, "task": name} for name in "abc"]
    found = read_prompts(saved_dataset(tmp_path / "d", rows[:2], rows[2:]))
    assert found == read_prompts(written(tmp_path / "p.jsonl", *rows))


def test_a_folder_that_is_no_dataset(tmp_path: Path) -> None:
    def refused(folder: Path) -> InputError:
        with pytest.raises(InputError) as caught:
            read_prompts(str(folder))
        return caught.value

    assert "not one that `save_to_disk`" in refused(tmp_path).message
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert refused(tmp_path).hint == f"pass one of them: {tmp_path}/train or {tmp_path}/test"
    (tmp_path / "dataset_dict.json").write_text('{"splits": []}')
    assert refused(tmp_path).message == f"{tmp_path}: a dataset without a split: it has no prompts"
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["../other"]}')
    assert "'../other' is not the name of a file" in refused(tmp_path).message
    saved = Path(saved_dataset(tmp_path / "d", [{"prompt": "a"}]))
    arrow = saved / "data-00000-of-00001.arrow"
    arrow.write_bytes(arrow.read_bytes()[:100])
    assert refused(saved).message == f"{arrow}: not an Arrow file, or truncated"
    arrow.unlink()
    assert "No such file" in refused(saved).message
    (saved / "state.json").write_text('{"_data_files": [{"filename": 1}]}')
    assert refused(saved).message.startswith(f"{saved / 'state.json'}: ")
    for outside in ("../p.arrow", "/p.arrow", "..", "a/p.arrow"):
        (saved / "state.json").write_text(json.dumps({"_data_files": [{"filename": outside}]}))
        assert refused(saved).message == (
            f"{saved / 'state.json'}: {outside!r} is not the name of a file in this folder"
        )
    (saved / "state.json").write_text('{"_data_files": [], "_indices_data_files": [{}]}')
    assert "selection of rows" in refused(saved).message


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{\n "prompt": "a"\n}\n', "p.json: one JSON document over several lines"),
        ('[\n{"prompt": "a"},\n{"prompt": "b"}\n]', "p.json: one JSON document over several lines"),
        ('[{"prompt": "a"}, {"prompt": "b"}]\n', "p.json, line 1: expected an object"),
    ],
)
def test_json_that_is_not_in_lines(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(InputError, match=problem) as caught:
        read_prompts(str(tmp_path / "p.json"))
    assert caught.value.hint is not None
    assert "one JSON object a line" in caught.value.hint


def test_a_chat_in_the_column_of_text_is_read_when_it_is_chosen(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "hi"}]
    source = written(tmp_path / "p.jsonl", {"prompt": messages})
    with pytest.raises(InputError) as caught:
        read_prompts(source)
    assert caught.value.hint is not None
    assert "--prompt-column prompt," in caught.value.hint
    [prompt] = read_prompts(source, column="prompt")
    assert (prompt.messages, prompt.text) == (messages, None)


def in_every_format(folder: Path, rows: list[dict[str, Any]]) -> list[str]:
    """The same rows as JSON lines, Parquet, a saved dataset and CSV."""
    pq.write_table(pa.Table.from_pylist(rows), folder / "p.parquet")
    names = list(rows[0])
    lines = [names, *([row[name] for name in names] for row in rows)]
    (folder / "p.csv").write_text("".join(f"{','.join(line)}\n" for line in lines))
    return [
        written(folder / "p.jsonl", *rows),
        str(folder / "p.parquet"),
        saved_dataset(folder / "saved", rows),
        str(folder / "p.csv"),
    ]


def test_a_column_can_be_chosen_in_every_format(tmp_path: Path) -> None:
    rows = [{"question": "why", "answer": "so"}, {"question": "what", "answer": "that"}]
    for source in in_every_format(tmp_path, rows):
        prompts = read_prompts(source, column="question")
        assert [prompt.text for prompt in prompts] == ["why", "what"], source
        assert [prompt.labels for prompt in prompts] == [{"answer": "so"}, {"answer": "that"}]


def test_another_column_is_named_with_what_to_type_in_every_format(tmp_path: Path) -> None:
    rows = [{"id": "1", "question": "why"}]
    for source in in_every_format(tmp_path, rows):
        with pytest.raises(InputError) as caught:
            read_prompts(source)
        assert caught.value.message.endswith("its columns: id, question"), source
        assert caught.value.hint is not None
        assert caught.value.hint.startswith("--prompt-column question, or prompt_column = ")


def test_a_chosen_column_wins_over_the_usual_ones(tmp_path: Path) -> None:
    row = {"prompt": "a", "messages": [{"role": "user", "content": "b"}], "ids": [1, 2]}
    source = written(tmp_path / "p.jsonl", row)
    with pytest.raises(InputError, match="found prompt and messages") as caught:
        read_prompts(source)
    assert caught.value.hint is not None
    assert "--prompt-column prompt" in caught.value.hint
    found = {name: read_prompts(source, column=name)[0] for name in row}
    contents = {name: (p.text, p.messages, p.token_ids) for name, p in found.items()}
    assert contents == {
        "prompt": ("a", None, None),
        "messages": (None, row["messages"], None),
        "ids": (None, None, [1, 2]),
    }


@pytest.mark.parametrize(
    ("column", "line", "expected"),
    [
        ("qestion", '{"question": "a"}', "no column 'qestion'; its columns: question"),
        ("question", '{"question": null}', "`question` is empty"),
        ("question", '{"question": ""}', "`question` is empty"),
        ("question", '{"question": 3}', "`question` must be a string"),
        ("question", '{"question": ["a"]}', "`question` must be a list of chat messages"),
    ],
)
def test_a_chosen_column_without_a_prompt(
    tmp_path: Path, column: str, line: str, expected: str
) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(line)
    with pytest.raises(InputError, match=f"line 1: {expected}"):
        read_prompts(str(path), column=column)


def test_plain_text_has_no_columns(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_text("a\n")
    with pytest.raises(InputError, match="plain text has no columns"):
        read_prompts(str(path), column="prompt")


def test_cells_that_semicolons_separate(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("prompt;level\na;1\n")
    with pytest.raises(InputError, match="its columns: prompt;level") as caught:
        read_prompts(str(path))
    assert caught.value.hint == "separate the cells by commas"


def test_windows_line_ends_and_byte_order_marks_are_read(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\r\n{"prompt": "b"}\r\n')
    assert [p.text for p in read_prompts(str(tmp_path / "p.jsonl"))] == ["a", "b"]


def test_the_limit_takes_the_first(tmp_path: Path) -> None:
    source = written(tmp_path / "p.jsonl", *({"prompt": str(i)} for i in range(5)))
    assert [p.text for p in read_prompts(source, 2)] == ["0", "1"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not valid JSON"),
        ("3", "expected an object"),
        ("{}", "no column prompt, prompt_token_ids or messages; its columns: none"),
        ('{"prompt": "a", "messages": []}', "found prompt and messages"),
        ('{"prompt_token_ids": [true]}', "must be a list of token ids"),
        ('{"prompt_token_ids": [1.0]}', "must be a list of token ids"),
        ('{"prompt_token_ids": "12"}', "must be a list of token ids"),
        ('{"messages": {"a": 1}}', "must be a list of chat messages"),
        ('{"prompt": ["a"]}', "must be a string"),
    ],
)
def test_the_line_at_fault_is_named(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "fine"}\n\n' + line)
    with pytest.raises(InputError) as caught:
        read_prompts(str(path))
    assert caught.value.message.startswith(f"{path}, line 3: ")
    assert reason in caught.value.message


def test_what_is_not_utf8_is_named_by_its_byte(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_bytes(b'{"prompt": "\xff"}')
    with pytest.raises(InputError, match=r"p.jsonl: not UTF-8 at byte 12"):
        read_prompts(str(tmp_path / "p.jsonl"))


def test_the_bundled_prompts_are_as_promised() -> None:
    prompts = read_prompts("bundled:prompts")
    assert len(prompts) == 560
    groups = {prompt.group for prompt in prompts}
    assert len(groups) > 1
    assert all(prompt.text for prompt in prompts)


def test_a_third_of_the_first_96_prompts_share_long_prefixes() -> None:
    texts = [prompt.text or "" for prompt in read_prompts("bundled:prompts")[:96]]
    prefixes = [text[:200] for text in texts if len(text) >= 200]
    sharing = sum(prefixes.count(text[:200]) > 1 for text in texts if len(text) >= 200)
    assert sharing >= len(texts) / 3


def test_tools_and_template_arguments_reach_the_chat_template(tmp_path: Path) -> None:
    row = {
        "messages": [{"role": "user", "content": "2 + 2"}],
        "tools": [{"type": "function", "function": {"name": "add"}}],
        "chat_template_kwargs": {"enable_thinking": False},
        "source": "a label",
    }
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(row))
    [prompt] = read_prompts(str(path))
    assert prompt.template == {"tools": row["tools"], "enable_thinking": False}
    assert prompt.labels == {"source": "a label"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt_gruop": "a"}, "unknown column `prompt_gruop` (did you mean `prompt_group`?)"),
        ({"chat_template_kwarg": {}}, "(did you mean `chat_template_kwargs`?)"),
        ({"temperature": 0.7}, "`temperature` of a single prompt is not supported"),
        ({"max_tokens": 7}, "`max_tokens` of a single prompt is not supported"),
        ({"images": ["a.png"]}, "`images` is not supported: the engines would get another prompt"),
        ({"tools": []}, "`tools` is for a chat template, and needs `messages`"),
    ],
)
def test_a_column_that_would_be_ignored_is_an_error(
    tmp_path: Path, row: dict[str, object], message: str
) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"prompt": "2 + 2", **row}))
    with pytest.raises(InputError) as caught:
        read_prompts(str(path))
    assert message in str(caught.value.message)


@pytest.mark.parametrize(
    ("column", "wanted"),
    [({"tools": {}}, "a list of functions"), ({"chat_template_kwargs": [1]}, "an object")],
)
def test_a_template_argument_of_the_wrong_type(
    tmp_path: Path, column: dict[str, object], wanted: str
) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"messages": [{"role": "user", "content": "a"}], **column}))
    with pytest.raises(InputError, match=f"must be {wanted}"):
        read_prompts(str(path))


@pytest.mark.parametrize("name", ["family", "tool", "prompt_type", "level", "reward"])
def test_other_columns_stay_labels(tmp_path: Path, name: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"prompt": "2 + 2", name: "x"}))
    [prompt] = read_prompts(str(path))
    assert prompt.labels == {name: "x"}


def test_csv_has_a_column_of_prompts_and_labels(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text('prompt,level\n"one, with\ntwo lines",3\nanother,\n')
    one, other = read_prompts(str(path))
    assert (one.text, one.labels) == ("one, with\ntwo lines", {"level": "3"})
    assert (other.text, other.labels) == ("another", {"level": None})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("question\nwhy\n", "line 2: no column prompt, .*; its columns: question"),
        ("prompt\na,b\n", "line 2: more cells than columns"),
        ('prompt\n"open\n', "not valid CSV"),
        ("prompt\n", "no prompts"),
    ],
)
def test_csv_that_is_none(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "p.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=expected):
        read_prompts(str(path))


def test_plain_text_is_a_prompt_a_line(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_text("{one}\n\n two\r\n")
    assert [each.text for each in read_prompts(str(path))] == ["{one}", " two"]


@pytest.mark.parametrize(
    "message", [{"role": "user"}, {"content": "a"}, {"role": 1, "content": "a"}]
)
def test_a_message_has_a_role_and_content(tmp_path: Path, message: dict[str, Any]) -> None:
    path = written(tmp_path / "p.jsonl", {"messages": [message]})
    with pytest.raises(InputError, match="a list of chat messages, each with a role and content"):
        read_prompts(str(path))


@pytest.mark.parametrize("content", [{}, {"content": None}, {"content": ""}])
def test_an_assistant_may_call_tools_without_a_word(
    tmp_path: Path, content: dict[str, Any]
) -> None:
    tools = [{"function": {"name": "f", "arguments": {}}}]
    called = {"role": "assistant", "tool_calls": tools, **content}
    messages = [{"role": "user", "content": "a"}, called, {"role": "tool", "content": None}]
    path = written(tmp_path / "p.jsonl", {"messages": messages})
    assert read_prompts(str(path))[0].messages == messages


def test_the_messages_of_sharegpt_are_named(tmp_path: Path) -> None:
    chat = [{"from": "human", "value": "a"}]
    path = written(tmp_path / "p.jsonl", {"conversations": chat})
    with pytest.raises(InputError, match="each with a role and content") as caught:
        read_prompts(str(path), column="conversations")
    assert caught.value.hint == "rename `from` and `value` of each message to `role` and `content`"


def test_cells_may_be_separated_by_tabs(tmp_path: Path) -> None:
    (tmp_path / "p.TSV").write_text('prompt\tlevel\n"a, b"\t1\n')
    [prompt] = read_prompts(str(tmp_path / "p.TSV"))
    assert (prompt.text, prompt.labels) == ("a, b", {"level": "1"})


def test_two_columns_of_one_name_are_no_prompt(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("prompt,prompt\na,b\n")
    with pytest.raises(InputError, match="two columns are called `prompt`"):
        read_prompts(str(tmp_path / "p.csv"))


def test_a_spreadsheet_may_end_with_empty_columns(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("prompt,level,,\na,1,,\n")
    [prompt] = read_prompts(str(tmp_path / "p.csv"))
    assert (prompt.text, prompt.labels["level"]) == ("a", "1")
