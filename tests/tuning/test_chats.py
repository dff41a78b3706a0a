from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from megatron_ipt.errors import InputError
from megatron_ipt.rejects import Rejects
from megatron_ipt.tuning.chats import Chat, read_chats
from tests.tuning.conftest import write_jsonl


def chats(path: Path, form: str = "auto") -> tuple[list[Chat], list[dict[str, Any]]]:
    with Rejects(path.with_suffix(".rejects")) as rejects:
        found = list(read_chats(path, path.name, form, rejects))
    file = path.with_suffix(".rejects")
    return found, [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def turns(chat: Chat) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in chat.messages]


def test_messages_and_conversations(tmp_path: Path) -> None:
    path = write_jsonl(
        tmp_path / "a.jsonl",
        [
            {"id": "x", "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"},
                                     {"role": "user", "content": "Bye"}]},
            {"conversations": [{"from": "system", "value": "Be kind."}, {"from": "human", "value": "Hi"},
                               {"from": "gpt", "value": "Hello"}]},
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]},
                          {"role": "assistant", "content": "Hello"}]},
        ],
    )  # fmt: skip
    found, rejected = chats(path)
    assert [chat.id for chat in found] == ["a.jsonl:x", "a.jsonl:2", "a.jsonl:3"]
    # What stands after the assistant's last message cannot be learned from.
    assert turns(found[0]) == [("user", "Hi"), ("assistant", "Hello")] == turns(found[2])
    assert turns(found[1])[0] == ("system", "Be kind.")
    assert rejected == []


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"prompt": "2+2?", "response": "4"}, [("user", "2+2?"), ("assistant", "4")]),
        ({"instruction": "Sort.", "input": "b a", "output": "a b"}, [("user", "Sort.\nb a"), ("assistant", "a b")]),
        (
            {"system_prompt": "Be brief.", "question": "2+2?", "response": "4"},
            [("system", "Be brief."), ("user", "2+2?"), ("assistant", "4")],
        ),
    ],
)
def test_prompt_and_response(record: dict[str, str], expected: list[tuple[str, str]], tmp_path: Path) -> None:
    ((chat,), _) = chats(write_jsonl(tmp_path / "a.jsonl", [record]))
    assert turns(chat) == expected


def test_bad_records_are_kept_with_file_and_line(tmp_path: Path) -> None:
    user, assistant = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
    bad = {
        "no messages": {"messages": []},
        "message is not an object": {"messages": ["Hi"]},
        "message with an unknown role": {"messages": [{"role": "narrator", "content": "Hi"}, assistant]},
        "content is not text": {"messages": [user, {"role": "assistant", "content": None}]},
        "no assistant message": {"messages": [user]},
        "starts with an assistant message": {"messages": [assistant, user, assistant]},
        "empty message": {"messages": [user, {"role": "assistant", "content": " "}]},
    }
    path = write_jsonl(tmp_path / "a.jsonl", [{"messages": [user, assistant]}, *bad.values()])
    path.write_text(path.read_text() + "{broken\n")
    found, rejected = chats(path)
    assert len(found) == 1
    assert [record["reason"] for record in rejected] == [*bad, "not valid JSON"]
    assert [record["line"] for record in rejected] == list(range(2, 10))
    assert {record["source"] for record in rejected} == {str(path)}


def test_file_of_no_known_format(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"title": "x", "body": "y"}])
    with pytest.raises(InputError, match=r"a\.jsonl: the first record has title, body; expected messages, or"):
        chats(path)


def test_every_pair_of_a_chain_is_a_chat(tmp_path: Path) -> None:
    path = tmp_path / "shard-00000.jsonl"
    chains = [
        {
            "id": "a", "split": "valid", "examples": [
                {"id": "a", "text": "A cat sat.", "pairs": [
                    {"question": "Who?", "answer": "a cat"},
                    {"question": "Who?", "answer": "a cat", "options": ["a dog", "a cat"], "reasoning": "It sat."},
                ]},
                {"id": "b", "text": "", "pairs": [{"question": "Why?", "answer": "So."}]},
            ],
        },
        {"id": "c", "split": "train", "examples": [{"id": "c", "text": "None.", "pairs": []}]},
        {"examples": 3},
    ]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, chains)))
    with Rejects(tmp_path / "rejects.jsonl") as rejects:
        for form in ("auto", "chains"):
            found = list(read_chats(path, path.name, form, rejects))
            assert [(chat.id, chat.split) for chat in found] == [("a#0", "valid"), ("a#1", "valid"), ("b#0", "valid")]
            assert [[message["content"] for message in chat.messages] for chat in found] == [
                ["A cat sat.\n\nWho?", "a cat"],
                [
                    "A cat sat.\n\nWho?\nOptions:\n- a dog\n- a cat\nLet's think step by step.",
                    "It sat.\nTherefore, the answer is a cat",
                ],
                ["Why?", "So."],
            ]
    assert rejects.reasons == {"not a chain": 2}
