"""Recipe section ``evaluation.in_context``."""

from __future__ import annotations

import string
from collections.abc import Iterator
from dataclasses import dataclass

from megatron_ipt.config import key

_FIELDS = {"context", "question"}


@dataclass
class InContextConfig:
    mode: str = key(
        "none",
        "Demonstrations before every question. concat: one after another, as far as the model's context goes. "
        "structured: in groups that are encoded apart from each other and attended to together (arXiv:2212.06713).",
        choices=("none", "concat", "structured"),
    )
    demonstrations: int = key(32, "Number of demonstrations, the same for all questions of a set.", minimum=1)
    groups: int | None = key(
        None, "structured: number of groups, of about equal length. null: as few as possible.", minimum=1
    )
    group_tokens: int | None = key(
        None,
        "Maximum tokens per group. null: what the model's context leaves beside the longest question and answer.",
        minimum=1,
    )
    files: dict[str, str] = key(
        {},
        "Files that demonstrations for evaluation.questions are drawn from, as NAME: FILE, with the names and in the "
        "format of questions. Benchmarks have demonstrations of their own.",
    )
    template: str = key(
        "",
        "Text before the answer, for questions and demonstrations, with {context} and {question}; an answer follows "
        "after a space. Empty: {context}, an empty line, Question: {question}, Answer:",
    )
    add_bos_token: bool = key(
        True,
        "Begin every group with BOS, as every document in training, where the tokenizer has one. Benchmarks follow "
        "harness.add_bos_token.",
    )
    seed: int = key(1234, "Seed of the choice of demonstrations.", minimum=0)
    beams: int = key(3, "Beams in the search for a generated answer; 1: greedy.", minimum=1)
    length_penalty: float = key(
        0.6, "The log-likelihood of a generated answer is divided by its tokens to this power, in a search with beams."
    )
    memory_gib: float | None = key(
        None,
        "Most memory for keys, values and activations, in GiB; fewer tokens are computed at once, then. null: no "
        "limit, 512 tokens at once.",
        minimum=0,
        affects_output=False,
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.mode != "structured" and self.groups is not None:
            yield "groups", f"is for mode structured; the mode is {self.mode}"
        if self.groups is not None and self.groups > self.demonstrations:
            yield "groups", f"{self.groups} groups cannot share {self.demonstrations} demonstrations; lower it"
        try:
            fields = {name for _, name, _, _ in string.Formatter().parse(self.template) if name is not None}
        except ValueError as error:
            yield "template", f"{error}; write {{{{ and }}}} for braces"
            return
        if fields - _FIELDS:
            yield "template", f"{{{sorted(fields - _FIELDS)[0]}}} is not {{context}} or {{question}}"
        elif self.template and not fields:
            yield "template", "has neither {context} nor {question}, so all questions would be the same"
