"""Pairs, examples and chains: what passes from synthesis to augmentation.

A *pair* is one instruction and its response, in typed fields, so that augmentation can render it in many ways. An
*example* is a text with its pairs. A *chain* is M examples that become one pre-training document: an M-shot example.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

TEXT_COMPLETION = "text completion"
"""Category of a pair whose answer continues its text; it comes first and directly follows the text."""


class Pair(NamedTuple):
    """One instruction and its response. A tuple, because a corpus has hundreds of millions of them.

    Attributes:
        question: the instruction, without options and without a request for reasoning.
        answer: the response; for a multiple-choice pair the full text of the right option.
        category: kind of task, e.g. ``cause and effect``.
        options: the choices, the answer among them; empty for a free-form pair.
        reasoning: steps that lead to the answer; empty where there are none.
        task: what the model was asked to do, for prompt styles with several tasks, or the rule that made the pair; else
            empty.
        style: the prompt style, as the recipe names it, where it mixes several; else empty.
    """

    question: str
    answer: str
    category: str = ""
    options: tuple[str, ...] = ()
    reasoning: str = ""
    task: str = ""
    style: str = ""

    def to_json(self) -> dict[str, Any]:
        record: dict[str, Any] = {"question": self.question, "answer": self.answer}
        if self.category:
            record["category"] = self.category
        if self.options:
            record["options"] = list(self.options)
        if self.reasoning:
            record["reasoning"] = self.reasoning
        if self.task:
            record["task"] = self.task
        if self.style:
            record["style"] = self.style
        return record

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Pair:
        return cls(
            record["question"],
            record["answer"],
            record.get("category", ""),
            tuple(record.get("options", ())),
            record.get("reasoning", ""),
            record.get("task", ""),
            record.get("style", ""),
        )


@dataclass
class Example:
    """A text (``id`` of its document, with ``#part`` where a long document was divided) and its pairs."""

    id: str
    text: str
    title: str = ""
    pairs: list[Pair] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        record: dict[str, Any] = {"id": self.id, "text": self.text}
        if self.title:
            record["title"] = self.title
        record["pairs"] = [pair.to_json() for pair in self.pairs]
        return record

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Example:
        pairs = [Pair.from_json(pair) for pair in record["pairs"]]
        return cls(record["id"], record["text"], record.get("title", ""), pairs)


@dataclass
class Chain:
    """Examples that become one document; ``split`` is ``train``, ``valid`` or ``test``.

    ``domain`` is that of all its texts, empty where they have none.
    """

    id: str
    split: str
    examples: list[Example]
    domain: str = ""

    def to_json(self) -> dict[str, Any]:
        record: dict[str, Any] = {"id": self.id, "split": self.split}
        if self.domain:
            record["domain"] = self.domain
        record["examples"] = [example.to_json() for example in self.examples]
        return record

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Chain:
        examples = [Example.from_json(example) for example in record["examples"]]
        return cls(record["id"], record["split"], examples, record.get("domain", ""))
