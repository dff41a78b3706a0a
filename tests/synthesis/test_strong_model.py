"""A strong model behind a server: every task and the synthesizer's format in one run, in every shape of answer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_ipt.inference.tokenizer import open_prompt_tokenizer
from megatron_ipt.manifest import StageContext
from megatron_ipt.stages import DOCUMENTS
from megatron_ipt.synthesis import stage
from megatron_ipt.synthesis.config import SynthesisConfig
from megatron_ipt.synthesis.from_text.prompted.chat.tasks import BUILT_IN, read_tasks
from tests.synthesis.conftest import texts_of, write_corpus
from tests.synthesis.http_server import Server, completion
from tests.synthesis.instant import answer_for
from tests.synthesis.scripted import passage_of, write_chat_tokenizer

pytest.importorskip("jinja2")
pytest.importorskip("openai")
TASKS = {task.name: task for task in read_tasks(BUILT_IN).tasks}
PAIRS = {"questions": 3, "multiple_choice": 2, "reasoning": 1, "diverse_questions": 4}
"""Pairs in an answer, by task; one where the answer is text, two in the synthesizer's format."""


def records_for(task: str, passage: str) -> list[dict[str, Any]]:
    """What the model knows about the passage; questions differ from text to text."""
    words = passage.split()
    records: list[dict[str, Any]] = []
    for number in range(PAIRS[task]):
        answer = " ".join(words[number + 1 : number + 3])
        record: dict[str, Any] = {"question": f'What are words {number + 1} and on after "{words[0]}"?'}
        if task == "multiple_choice":
            record["options"] = ["none at all", answer, "some others", "I, too, wonder"]
        if task == "reasoning":
            record["reasoning"] = f"The text begins with {words[0]}.\nThen come more words."
        records.append(record | {"answer": answer})
    return records


def as_prose(records: list[dict[str, Any]]) -> str:
    lines = []
    for number, record in enumerate(records, 1):
        lines.append(f"{number}. **Question:** {record['question']}")
        lines += [f"   {letter}) {option}" for letter, option in zip("ABCD", record.get("options", []))]
        if "reasoning" in record:
            lines.append(f"   **Reasoning:** {record['reasoning']}")
        lines += [f"   **Answer:** {record['answer']}", ""]
    return "\n".join(lines)


SHAPES: tuple[Callable[[list[dict[str, Any]]], str], ...] = (
    lambda records: json.dumps({"pairs": records}),
    lambda records: f"```json\n{json.dumps({'pairs': records}, indent=2)}\n```",
    lambda records: f"Sure! Here are the questions:\n\n{json.dumps(records)}\n\nLet me know if you need more.",
    lambda records: "\n".join(json.dumps(record) for record in records),
    lambda records: f"<think>\nThe passage is short.\n</think>\n\n{json.dumps({'pairs': records})}",
    lambda records: json.dumps({"pairs": records}).replace("}, {", "}, \n {").removesuffix("]}") + ",]}",
    as_prose,
)
TEXT_SHAPES: tuple[Callable[[str], str], ...] = (
    lambda text: text,
    lambda text: f"```\n{text}\n```",
    lambda text: f"Here is the text you asked for:\n\n{text}",
    lambda text: f"<think>Easy.</think>\n\n{text}",
)


class StrongModel:
    """Reads a prompt and answers it; notes which shapes it used for which task."""

    def __init__(self, folder: Path):
        from tokenizers import Tokenizer

        self.tokenizer = open_prompt_tokenizer(folder)
        self.raw = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.shapes: Counter[tuple[str, int]] = Counter()

    def __call__(self, number: int, body: dict[str, Any]) -> dict[str, Any]:
        answer = self.answer(self.raw.decode(body["prompt"], skip_special_tokens=False))
        ids = [*self.tokenizer.encode([answer])[0], self.tokenizer.eos_id]
        if len(ids) > body["max_tokens"]:
            return completion(body, "", finish_reason="length", token_ids=ids[: body["max_tokens"]])
        return completion(body, answer, token_ids=ids)

    def answer(self, prompt: str) -> str:
        if "<CON>" in prompt:
            self.shapes["synthesizer", 0] += 1
            return answer_for(prompt.rpartition("<CON> ")[2].partition(" </CON>")[0])
        passage = passage_of(prompt)
        (task,) = (name for name, task in TASKS.items() if task.user.split("\n", 1)[0] in prompt)
        pick = sum(map(ord, passage))
        if task in PAIRS:
            shape = pick % len(SHAPES)
            self.shapes[task, shape] += 1
            return SHAPES[shape](records_for(task, passage))
        shape = pick % len(TEXT_SHAPES)
        self.shapes[task, shape] += 1
        return TEXT_SHAPES[shape](f"In short: {passage}")


def test_every_style_and_task_gives_its_pairs(
    configure: Callable[..., SynthesisConfig], context: StageContext, tmp_path: Path
) -> None:
    folder = write_chat_tokenizer(tmp_path / "model")
    model = StrongModel(folder)
    texts = texts_of(400)
    write_corpus(context.inputs[DOCUMENTS], [texts[:150], texts[150:]])
    with Server(model, models=("strong",)) as server:
        config = configure(
            engine="openai",
            prompt="{synthesizer: 1, chat: 3}",
            chain_length=2,
            **{
                "generation.model": "strong",
                "generation.tokenizer": folder,
                "generation.context_length": 4096,
                "generation.max_new_tokens": 1500,
                "openai.base_urls": f"[{server.url}]",
            },
        )
        counts = stage.run(config, context)
    assert counts["texts_with_pairs"] == 400 and counts["dropped"] == {}
    expected_tasks: Counter[str] = Counter()
    expected_styles: Counter[str] = Counter()
    for chain in stage.chains_in(context.directory):
        for example in chain.examples:
            task, style = example.pairs[0].task, example.pairs[0].style
            assert {(pair.task, pair.style) for pair in example.pairs} == {(task, style)}
            if style == "synthesizer":
                assert task == "" and len(example.pairs) == 2
            elif task in PAIRS:
                found = [(pair.question, pair.answer) for pair in example.pairs]
                assert found == [(each["question"], each["answer"]) for each in records_for(task, example.text)]
                assert all(len(pair.options) == 4 * (task == "multiple_choice") for pair in example.pairs)
                assert all(bool(pair.reasoning) == (task == "reasoning") for pair in example.pairs)
            else:
                assert [pair.answer for pair in example.pairs] == [f"In short: {example.text}"]
            expected_styles[style] += len(example.pairs)
            if task:
                expected_tasks[task] += len(example.pairs)
    assert counts["styles"] == expected_styles and set(expected_styles) == {"synthesizer", "chat"}
    assert counts["tasks"] == expected_tasks and set(expected_tasks) == set(TASKS)
    used = {shape for task, shape in model.shapes if task in PAIRS}
    assert used == set(range(len(SHAPES))), "a shape of answer was never tried"
    assert "short_answers_not_in_text" not in counts and "texts_with_repeated_pairs" not in counts
