"""Chats, preference pairs, tool turns and images: what is made of them, what is refused, what is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adg.artifacts.artifact import Artifact
from adg.artifacts.store import Store
from adg.errors import BadInput
from adg.execution import ExecConfig
from adg.pools import records
from adg.pools import stage as pool_stage
from adg.pools.chat import answer_in, first_exchange
from adg.pools.config import FieldMap, PoolConfig
from adg.pools.notices import notices

PLAIN = {"instruction": "Name a fish.", "output": "Carp."}


def said(*turns: tuple[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns], **more}


def text(*parts: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": part} for part in parts]


def build(folder: Path, rows: list[Any], **config: Any) -> Artifact:
    path = folder / "pool.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    node = pool_stage.node(PoolConfig(**{"name": "own", "path": str(path), **config}))
    return Store(folder / "runs", ExecConfig()).ensure(node)


def refusal(folder: Path, rows: list[Any], **config: Any) -> str:
    with pytest.raises(BadInput) as caught:
        build(folder, rows, **config)
    return str(caught.value)


def texts(pool: Artifact) -> list[tuple[str, str, str]]:
    return [(r.instruction, r.input, r.output) for r in records.load(pool)]


# -- the first exchange ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "question", "answer"),
    [
        (text("Name a bird."), "Name a bird.", "Heron."),
        (text("Read:", "a text"), "Read:\na text", "Heron."),
        ([{"type": "input_text", "text": "Hi"}, {"type": None, "text": "you", "image_url": None}], "Hi\nyou", "Heron."),
        (["Hi", "you"], "Hi\nyou", "Heron."),
        ({"type": "text", "text": "Hi"}, "Hi", "Heron."),
    ],
)
def test_content_in_parts_is_read(content: Any, question: str, answer: str) -> None:
    row = first_exchange(said(("user", content), ("assistant", text(answer)))["messages"], "messages")
    assert (row.instruction, row.output, row.not_text, row.problems) == (question, answer, "", [])


def test_a_developer_turn_is_a_system_turn(tmp_path: Path) -> None:
    chat = [("user", "Q"), ("assistant", "A")]
    pool = build(tmp_path, [said(("developer", "Be brief."), *chat), said(("system", "Be kind."), *chat), said(*chat)])
    assert texts(pool) == [("Q", "", "A")] * 3 and pool.info["system_turn"] == 2
    assert "2 of 3 rows have a system prompt, which the template has no place for: it is left out" in notices(pool.info)


def test_a_list_kept_as_json_in_a_text_is_read(tmp_path: Path) -> None:
    row = {"conversations": json.dumps([{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}])}
    assert texts(build(tmp_path, [row])) == [("Q", "", "A")]
    assert "is str, expected a list of turns" in refusal(tmp_path, [{"conversations": "Q: what?"}])


def test_nulls_from_rows_of_another_layout_are_absent(tmp_path: Path) -> None:
    """The columns of a table are those of all its rows; the records are the same as from JSON Lines."""
    rows = [
        PLAIN,
        {"conversations": [{"from": "human", "value": "Name a tree."}, {"from": "gpt", "value": "Oak."}]},
        said(("user", "Name a bird."), ("assistant", text("Heron."))),
        {"id": None, "instruction": "Add.", "input": "1 1", "output": "2", "history": [["a", "b"]], "system": "Add."},
        {"messages": [{"role": "user", "content": text("Hi"), "tool_calls": None}, {"from": "gpt", "value": "Hello"}]},
    ]
    names = dict.fromkeys(name for row in rows for name in row)
    turn = {"role": None, "content": None, "from": None, "value": None, "tool_calls": None}
    filled = [{name: row.get(name) for name in names} for row in rows]
    for row in filled:
        for name in ("messages", "conversations"):
            row[name] = row[name] and [{**turn, **said} for said in row[name]]
            for said_ in row[name] or []:
                if isinstance(said_["content"], str):
                    said_["content"] = text(said_["content"])
    pq.write_table(pa.Table.from_pylist(filled), tmp_path / "pool.parquet")
    for fields in (FieldMap(), FieldMap(messages="messages")):
        if fields.messages:
            filled[1]["instruction"] = rows[1]["instruction"] = "Name a tree."
            filled[1]["output"] = rows[1]["output"] = "Oak."
            pq.write_table(pa.Table.from_pylist(filled), tmp_path / "pool.parquet")
        lines = build(tmp_path, rows, fields=fields)
        table = pool_stage.node(PoolConfig(name="own", path=str(tmp_path / "pool.parquet"), fields=fields))
        tabled = Store(tmp_path / "runs", ExecConfig()).ensure(table)
        assert records.load(tabled) == records.load(lines)
        assert texts(lines)[:3] == [
            ("Name a fish.", "", "Carp."),
            ("Name a tree.", "", "Oak."),
            ("Name a bird.", "", "Heron."),
        ]
        assert (tabled.info["multi_turn"], tabled.info["system_turn"]) == (1, 1)


def test_a_blank_instruction_beside_a_chat_is_none(tmp_path: Path) -> None:
    chat = said(("user", "Q"), ("assistant", "A"))
    rows = [{**chat, "instruction": ""}, {**PLAIN, "messages": []}, {**PLAIN, "messages": None}]
    assert [r.instruction for r in records.load(build(tmp_path, rows))] == ["Q", "Name a fish.", "Name a fish."]
    assert "missing or empty instruction" in refusal(tmp_path, [PLAIN, {"instruction": " ", "output": "x"}])


def test_turns_under_other_names_are_proposed_with_their_answer(tmp_path: Path) -> None:
    row = {"prompt": [{"role": "user", "content": "Q"}], "completion": [{"role": "assistant", "content": "A"}]}
    assert "Set pool.fields.messages=prompt pool.fields.output=completion\n" in refusal(tmp_path, [row])
    assert texts(build(tmp_path, [row], fields=FieldMap(messages="prompt", output="completion"))) == [("Q", "", "A")]


def test_a_column_of_nulls_is_no_field(tmp_path: Path) -> None:
    assert "no row has the field 'output'" in refusal(tmp_path, [{"instruction": "a", "output": None}] * 3)


# -- rows without an answer --------------------------------------------------------------------------

UNANSWERED = {
    "chat": said(("user", "Q")),
    "chat with an empty answer": said(("user", "Q"), ("assistant", " \n")),
    "chat with parts": said(("user", text("Q")), ("assistant", [])),
    "sharegpt": {"conversations": [{"from": "human", "value": "Q"}]},
    "fields": {"instruction": "Q", "output": ""},
    "null": {"instruction": "Q", "output": None},
    "without the field": {"instruction": "Q"},
}


@pytest.mark.parametrize("layout", sorted(UNANSWERED))
def test_a_row_without_an_answer_is_treated_alike_in_every_layout(tmp_path: Path, layout: str) -> None:
    rows = [PLAIN, UNANSWERED[layout], UNANSWERED[layout]]
    message = refusal(tmp_path, rows)
    assert "line 2: id 1: empty output" in message and "line 3: id 2: empty output" in message
    assert (
        "\n2 x empty output: pool.empty_output=drop leaves such rows out, pool.empty_output=keep takes them\n"
        in message
    )
    dropped = build(tmp_path, rows, empty_output="drop")
    assert (dropped.info["rows_in"], dropped.info["rows_out"], dropped.info["dropped"]) == (3, 1, 2)
    assert records.load_left_out(dropped) == dict.fromkeys(("1", "2"), "dropped: empty output")
    kept = build(tmp_path, rows, empty_output="keep")
    assert [(r.instruction, r.output.strip()) for r in records.load(kept)][1:] == [("Q", "")] * 2
    assert "2 of 3 rows are taken without an answer" in notices(kept.info)


def test_a_pool_said_to_have_no_answers_is_taken(tmp_path: Path) -> None:
    pool = build(tmp_path, [{"instruction": "Q"}], fields=FieldMap(output=None))
    assert texts(pool) == [("Q", "", "")] and pool.info["empty_output"] == 1


TURN = {"role": "assistant", "content": "yes"}


@pytest.mark.parametrize("chosen", ["yes", TURN, [TURN], [{"role": "user", "content": "Q"}, TURN]])
def test_preference_pairs_are_named_and_the_option_for_them_works(tmp_path: Path, chosen: Any) -> None:
    chats = [said(("user", f"Q{i}"), chosen=chosen, rejected="no") for i in range(3)]
    message = refusal(tmp_path, chats)
    assert "\n3 x empty output: pool.empty_output=keep takes them\n" in message, "dropping would leave nothing"
    assert "3 rows are preference pairs (fields chosen, rejected): pool.fields.output=chosen" in message
    pool = build(tmp_path, chats, fields=FieldMap(output="chosen"))
    assert texts(pool) == [(f"Q{i}", "", "yes") for i in range(3)]
    assert "3 of 3 rows are preference pairs (fields chosen, rejected)" in notices(pool.info)
    flat = [{"prompt": "Q", "chosen": chosen, "rejected": "no"}]
    message = refusal(tmp_path, flat)
    assert "no row has the fields 'instruction', 'output'" in message
    if isinstance(chosen, list) and len(chosen) == 2:
        assert "Set pool.fields.messages=chosen" in message
        assert texts(build(tmp_path, flat, fields=FieldMap(messages="chosen"))) == [("Q", "", "yes")]
    else:
        assert "Set pool.fields.instruction=prompt pool.fields.output=chosen" in message or chosen == [TURN]
    pool = build(tmp_path, flat, fields=FieldMap(instruction="prompt", output="chosen"))
    assert texts(pool) == [("Q", "", "yes")]


def test_an_answer_is_taken_from_nothing_else() -> None:
    assert (
        answer_in(3) is None and answer_in([{"role": "user", "content": "Q"}]) is None and answer_in({"a": 1}) is None
    )


# -- more than text ----------------------------------------------------------------------------------

CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}
NOT_TEXT = {
    "function_call": {
        "conversations": [
            {"from": "human", "value": "Weather?"},
            {"from": "function_call", "value": "{}"},
            {"from": "observation", "value": "sunny"},
            {"from": "gpt", "value": "Sunny."},
        ]
    },
    "tool": said(("user", "Q"), ("tool", "3"), ("assistant", "A")),
    "tool after the answer": said(("user", "Q"), ("assistant", "Let me see."), ("tool", "3"), ("assistant", "A")),
    "tool_calls": {"messages": [{"role": "user", "content": "Q"}, CALL]},
    "image_url": said(
        ("user", [{"type": "image_url", "image_url": {"url": "a.png"}}, *text("What?")]), ("assistant", "A")
    ),
    "image": said(("user", [{"image": "a.png"}, *text("What?")]), ("assistant", "A")),
    "<image>": said(("user", "<image>What?"), ("assistant", "A"), images=["a.png"]),
    "<video>": {"instruction": "What?\n<video>", "output": "A", "video": "a.mp4"},
}


@pytest.mark.parametrize("kind", sorted(NOT_TEXT))
def test_rows_that_are_more_than_text_are_refused_or_dropped_with_a_count(tmp_path: Path, kind: str) -> None:
    rows = [PLAIN, NOT_TEXT[kind], NOT_TEXT[kind]]
    message = refusal(tmp_path, rows)
    assert "line 2: id 1: " in message and kind.split()[0] in message
    assert "\n2 x more than text: pool.not_text=drop leaves such rows out\n" in message
    pool = build(tmp_path, rows, not_text="drop")
    assert (pool.info["rows_out"], pool.info["dropped"], pool.info["not_text"]) == (1, 2, 2)
    assert all(kind.split()[0] in why for why in records.load_left_out(pool).values())


def test_what_stands_after_the_first_exchange_decides_nothing(tmp_path: Path) -> None:
    chat = said(("user", "Q"), ("assistant", "A"), ("user", "And?"), ("tool", "3"), ("assistant", "B"))
    pool = build(tmp_path, [chat, {**PLAIN, "history": [["a", "b"]]}, {**PLAIN, "history": [], "system": " "}])
    assert texts(pool)[0] == ("Q", "", "A")
    assert (pool.info["multi_turn"], pool.info["system_turn"]) == (2, 0)
    assert any(line.startswith("2 of 3 rows have further turns") for line in notices(pool.info))


def test_a_placeholder_or_an_image_alone_is_said_and_taken(tmp_path: Path) -> None:
    rows = [{"instruction": "Close the tag <image>.", "output": "</image>"}, {**PLAIN, "image": "carp.png"}, PLAIN]
    pool = build(tmp_path, rows)
    assert pool.info["rows_out"] == 3
    assert "1 of 3 rows hold a placeholder (<image>, <video> or <audio>), which is read as text" in notices(pool.info)
    assert "1 of 3 rows name an image, video or sound, which is not used" in notices(pool.info)


def test_a_limit_that_drops_nothing_is_said(tmp_path: Path) -> None:
    said = notices(build(tmp_path, [PLAIN, PLAIN], max_chars=5).info)
    assert said == ["2 of 2 rows are longer than pool.max_chars: pool.over_long=drop drops them"]
    assert notices(build(tmp_path, [PLAIN, {**PLAIN, "output": ""}], max_chars=14, empty_output="drop").info)[
        0
    ].startswith("1 of 2")


# -- ids ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ids", [["q", "q", "r"], [1, 1.5, 2], [True, False, 1], ["", "a", "b"], [[1], [2], [3]]])
def test_rows_are_numbered_on_request(tmp_path: Path, ids: list[Any]) -> None:
    rows = [{"id": id, "instruction": f"Do {i}", "output": "x"} for i, id in enumerate(ids)]
    assert "no usable id: pool.number_rows=true takes a row's position as its id instead" in refusal(tmp_path, rows)
    pool = build(tmp_path, rows, number_rows=True)
    assert [r.id for r in records.load(pool)] == [0, 1, 2]
    assert records.load_original(pool) == {str(i): row for i, row in enumerate(rows)}


def test_options_that_came_later_change_no_identity_unless_used(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(json.dumps(PLAIN))

    def config(**more: Any) -> dict[str, Any]:
        return pool_stage.node(PoolConfig(name="p", path=str(tmp_path / "p.jsonl"), **more)).payload["config"]

    assert not {"number_rows", "not_text"} & set(config())
    assert config(number_rows=True)["number_rows"] is True and config(not_text="drop")["not_text"] == "drop"
