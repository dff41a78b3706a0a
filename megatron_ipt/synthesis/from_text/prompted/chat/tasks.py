"""Tasks of the chat style, read from YAML; ``tasks.yaml`` beside this module holds the built-in ones and says what the
keys mean. All problems of a file are reported at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from megatron_ipt.errors import RecipeError, did_you_mean
from megatron_ipt.inference.sampling import Sampling
from megatron_ipt.seeding import derive, unit_interval
from megatron_ipt.synthesis.pairs import Pair

BUILT_IN = Path(__file__).with_name("tasks.yaml")
TEXT = "{text}"
PAIRS, RESPONSE = "pairs", "text"
"""Values of ``answer``."""
SAMPLED = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
"""Settings that a file may recommend."""

_FILE_KEYS = ("sampling", "template_variables", "tasks")
_TYPES: dict[str, tuple[type | tuple[type, ...], str]] = {
    "weight": ((int, float), "a number"),
    "system": (str, "text"),
    "user": (str, "text"),
    "answer": (str, f"{PAIRS} or {RESPONSE}"),
    "options": (bool, "true or false"),
    "reasoning": (bool, "true or false"),
    "question": ((str, list), "a wording or a list of wordings"),
    "examples": (list, "a list"),
    "sampling": (dict, "a mapping"),
}


@dataclass(frozen=True)
class Example:
    """An earlier turn of the conversation: a text, and what was answered."""

    text: str
    answer: str
    pairs: tuple[Pair, ...] = ()


@dataclass(frozen=True)
class Task:
    """One thing to ask about a text; see ``tasks.yaml``."""

    name: str
    weight: float
    user: str
    system: str = ""
    answer: str = PAIRS
    options: bool = False
    reasoning: bool = False
    questions: tuple[str, ...] = ()
    examples: tuple[Example, ...] = ()
    sampling: Mapping[str, Any] = field(default_factory=dict)

    def request(self, text: str) -> str:
        """The message about ``text``."""
        return self.user.replace(TEXT, text)

    def wording(self, seed: int, text_id: str) -> str:
        """The instruction that the response to text ``text_id`` answers; empty for pairs."""
        if not self.questions:
            return ""
        return self.questions[derive(seed, "wording", text_id) % len(self.questions)]

    def schema(self) -> dict[str, Any] | None:
        """JSON schema of the answer, for engines that can enforce one; None where the answer is text."""
        if self.answer != PAIRS:
            return None
        text = {"type": "string", "minLength": 1}
        fields: dict[str, Any] = {"question": text}
        if self.options:
            fields["options"] = {"type": "array", "items": text, "minItems": 2, "maxItems": 6}
        if self.reasoning:
            fields["reasoning"] = text
        fields["answer"] = text
        pair = {"type": "object", "properties": fields, "required": [*fields], "additionalProperties": False}
        return {
            "type": "object",
            "properties": {"pairs": {"type": "array", "items": pair, "minItems": 1, "maxItems": 12}},
            "required": ["pairs"],
            "additionalProperties": False,
        }


@dataclass(frozen=True)
class Tasks:
    """The tasks of a file with a weight above 0.

    Attributes:
        tasks: in the order of the file.
        variables: of the chat template.
    """

    tasks: tuple[Task, ...]
    variables: Mapping[str, Any]

    def draw(self, seed: int, text_id: str) -> Task:
        """The task of a text, by weight; depends on nothing but the arguments."""
        position = unit_interval(seed, "task", text_id) * sum(task.weight for task in self.tasks)
        for task in self.tasks:
            position -= task.weight
            if position < 0:
                return task
        return self.tasks[-1]


def read_tasks(path: Path) -> Tasks:
    """The tasks in ``path``.

    Raises:
        RecipeError: lists everything that is wrong with the file.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RecipeError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("tasks"), dict) or not content["tasks"]:
        raise RecipeError(f"{path}: expected a mapping with the key tasks, which maps names to tasks")
    entries = {name: _complete(name, entry) for name, entry in content["tasks"].items()}
    problems = [*_file_problems(content), *(problem for item in entries.items() for problem in _task_problems(*item))]
    weights = [entry.get("weight", 1) for entry in entries.values() if isinstance(entry, dict)]
    if not problems and not any(weight > 0 for weight in weights):
        problems.append("tasks: no task has a weight above 0")
    if problems:
        raise RecipeError("\n".join(f"{path}: {problem}" for problem in problems))
    shared = content.get("sampling", _built_in()["sampling"])
    tasks = [_task(name, entry, shared) for name, entry in entries.items() if entry.get("weight", 1) > 0]
    return Tasks(tuple(tasks), content.get("template_variables", _built_in()["template_variables"]))


@cache
def _built_in() -> Any:
    """The content of ``tasks.yaml``."""
    return yaml.safe_load(BUILT_IN.read_text(encoding="utf-8"))


def _complete(name: Any, entry: Any) -> Any:
    """An entry without ``user`` under a built-in name, completed by the built-in task."""
    entry = {} if entry is None else entry
    if isinstance(entry, dict) and "user" not in entry and name in _built_in()["tasks"]:
        return {**_built_in()["tasks"][name], **entry}
    return entry


def _task(name: str, entry: Mapping[str, Any], sampling: Mapping[str, Any]) -> Task:
    questions = entry.get("question", [])
    return Task(
        name,
        entry.get("weight", 1),
        entry["user"].strip(),
        entry.get("system", "").strip(),
        entry.get("answer", PAIRS),
        entry.get("options", False),
        entry.get("reasoning", False),
        (questions,) if isinstance(questions, str) else tuple(questions),
        tuple(map(_example, entry.get("examples", []))),
        {**sampling, **entry.get("sampling", {})},
    )


def _example(entry: Mapping[str, Any]) -> Example:
    if PAIRS not in entry:
        return Example(entry["text"], entry["response"])
    pairs = tuple(map(Pair.from_json, entry[PAIRS]))
    # Reasoning comes before the answer, so that the model reasons first.
    order = ("question", "options", "reasoning", "answer")
    records = [pair.to_json() for pair in pairs]
    written = [{name: record[name] for name in order if name in record} for record in records]
    return Example(entry["text"], json.dumps({PAIRS: written}, ensure_ascii=False), pairs)


def _file_problems(content: Mapping[str, Any]) -> Iterator[str]:
    for name in content:
        if name not in _FILE_KEYS:
            yield f"{name}: unknown key.{did_you_mean(str(name), _FILE_KEYS)} Valid: {', '.join(_FILE_KEYS)}"
    yield from _sampling_problems("sampling", content.get("sampling", {}))
    if not isinstance(content.get("template_variables", {}), dict):
        yield "template_variables: expected a mapping"


def _task_problems(name: Any, entry: Any) -> Iterator[str]:
    where = f"tasks.{name}"
    if not isinstance(name, str) or not name:
        yield f"{where}: the name of a task must be text"
        return
    if not isinstance(entry, dict):
        yield f"{where}: expected a mapping, found {type(entry).__name__}"
        return
    wrong = False
    for key, value in entry.items():
        if key not in _TYPES:
            wrong = True
            yield f"{where}.{key}: unknown key.{did_you_mean(str(key), _TYPES)} Valid: {', '.join(_TYPES)}"
        elif not isinstance(value, _TYPES[key][0]) or (key == "weight" and isinstance(value, bool)):
            wrong = True
            yield f"{where}.{key}: expected {_TYPES[key][1]}, found {value!r:.80}"
    if wrong:
        return
    if not 0 <= entry.get("weight", 1) < float("inf"):
        yield f"{where}.weight: expected a number of at least 0, found {entry['weight']}"
    if "user" not in entry:
        yield f"{where}.user: is missing; only built-in tasks ({', '.join(_built_in()['tasks'])}) need none"
    elif entry["user"].count(TEXT) != 1:
        yield f"{where}.user: must contain {TEXT} exactly once, found {entry['user'].count(TEXT)} times"
    answer = entry.get("answer", PAIRS)
    if answer not in (PAIRS, RESPONSE):
        yield f"{where}.answer: {answer!r} is not one of {PAIRS}, {RESPONSE}"
        return
    questions = entry.get("question", [])
    questions = [questions] if isinstance(questions, str) else questions
    if not all(isinstance(wording, str) and wording.strip() for wording in questions):
        yield f"{where}.question: wordings must be text that is not empty"
    if answer == RESPONSE and not questions:
        yield f"{where}.question: is missing; it is the instruction that the response answers"
    for key in ("options", "reasoning") if answer == RESPONSE else ("question",):
        if entry.get(key):
            yield f"{where}.{key}: has no meaning with answer: {answer}"
    yield from _sampling_problems(f"{where}.sampling", entry.get("sampling", {}))
    for number, example in enumerate(entry.get("examples", []), 1):
        yield from _example_problems(f"{where}.examples[{number}]", example, answer)


def _example_problems(where: str, example: Any, answer: str) -> Iterator[str]:
    needed = "response" if answer == RESPONSE else PAIRS
    if not isinstance(example, dict) or example.keys() != {"text", needed} or not isinstance(example["text"], str):
        yield f"{where}: expected the keys text and {needed}"
    elif answer == RESPONSE:
        if not isinstance(example[needed], str):
            yield f"{where}.{needed}: expected text"
    elif not _are_pairs(example[needed]):
        yield f"{where}.pairs: expected a list of mappings with question, answer and, if needed, options and reasoning"


def _are_pairs(pairs: Any) -> bool:
    if not isinstance(pairs, list) or not pairs:
        return False
    for pair in pairs:
        if not isinstance(pair, dict) or not {"question", "answer"} <= pair.keys():
            return False
        options = pair.get("options", [])
        texts: Sequence[Any] = [pair["question"], pair["answer"], pair.get("reasoning", "")]
        if not isinstance(options, list) or not all(isinstance(text, str) for text in (*texts, *options)):
            return False
        if not pair.keys() <= {"question", "answer", "options", "reasoning"}:
            return False
    return True


def _sampling_problems(where: str, sampling: Any) -> Iterator[str]:
    if not isinstance(sampling, dict):
        yield f"{where}: expected a mapping, found {sampling!r:.80}"
        return
    for name, value in sampling.items():
        if name not in SAMPLED:
            yield f"{where}.{name}: unknown key.{did_you_mean(str(name), SAMPLED)} Valid: {', '.join(SAMPLED)}"
        elif isinstance(value, bool) or not isinstance(value, int if name == "top_k" else (int, float)):
            yield f"{where}.{name}: expected a number, found {value!r:.80}"
        else:
            given: dict[str, Any] = {name: value}
            try:
                Sampling(1, **given)
            except RecipeError as error:
                yield f"{where}.{error}"
