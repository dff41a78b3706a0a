"""Files of tasks: what they may say, and how a mistake is reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron_ipt.errors import RecipeError
from megatron_ipt.synthesis.from_text.prompted.chat.tasks import BUILT_IN, Tasks, read_tasks


def read(folder: Path, content: str) -> Tasks:
    file = folder / "own.yaml"
    file.write_text(content)
    return read_tasks(file)


def test_built_in_tasks_are_complete() -> None:
    tasks = read_tasks(BUILT_IN)
    assert {task.answer for task in tasks.tasks} == {"pairs", "text"}
    for task in tasks.tasks:
        assert task.sampling == {"temperature": 0.7, "top_p": 0.9}
        assert (task.schema() is None) == (task.answer == "text") == bool(task.questions)
        assert (task.options, task.reasoning) == ('"options"' in task.user, '"reasoning"' in task.user)
    assert tasks.variables == {"enable_thinking": False}


def test_an_entry_without_a_user_message_changes_a_built_in_task(tmp_path: Path) -> None:
    built_in = {task.name: task for task in read_tasks(BUILT_IN).tasks}
    first, second = read(tmp_path, "tasks: {summary: , reasoning: {weight: 5, sampling: {top_p: 0.5}}}").tasks
    assert first == built_in["summary"]
    assert (second.weight, second.user, second.reasoning) == (5, built_in["reasoning"].user, True)
    assert second.sampling == {"temperature": 0.7, "top_p": 0.5}


def test_a_task_of_ones_own(tmp_path: Path) -> None:
    tasks = read(
        tmp_path,
        """
sampling: {temperature: 0.2}
tasks:
  title:
    user: "Title for: {text}"
    answer: text
    question: What is a good title?
    examples: [{text: A cat sat., response: Cats}]
  never: {weight: 0, user: "{text}"}
  quiz:
    user: "Quiz: {text}"
    options: true
    examples: [{text: A cat sat., pairs: [{question: "Who?", options: [a cat, a dog], answer: a cat}]}]
""",
    )
    title, quiz = tasks.tasks
    assert (title.request("a {text} b"), title.wording(7, "d0")) == ("Title for: a {text} b", "What is a good title?")
    assert title.sampling == {"temperature": 0.2}
    written = '{"pairs": [{"question": "Who?", "options": ["a cat", "a dog"], "answer": "a cat"}]}'
    assert quiz.examples[0].answer == written
    schema = quiz.schema()
    assert schema is not None
    assert schema["properties"]["pairs"]["items"]["required"] == ["question", "options", "answer"]


def test_the_wording_depends_on_the_text(tmp_path: Path) -> None:
    (task,) = read(tmp_path, "tasks: {summary: }").tasks
    drawn = [task.wording(7, f"d{number}") for number in range(100)]
    assert set(drawn) == set(task.questions)
    assert drawn == [task.wording(7, f"d{number}") for number in range(100)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("tasks: [", "not valid YAML"),
        ("[]", "expected a mapping with the key tasks"),
        ("tasks: {}", "expected a mapping with the key tasks"),
        ("tasks: {summary: {weight: 0}}", "no task has a weight above 0"),
        ("tasks: {summary: {weight: -1}}", r"tasks\.summary\.weight: expected a number of at least 0, found -1"),
        ("tasks: {summary: {weight: .nan}}", r"tasks\.summary\.weight: expected a number of at least 0, found nan"),
        ("tasks: {summary: {weight: yes}}", r"tasks\.summary\.weight: expected a number, found True"),
        ("tasks: {summary: 3}", r"tasks\.summary: expected a mapping, found int"),
        ("tasks: {7: {user: '{text}'}}", r"tasks\.7: the name of a task must be text"),
        ("tasks: {sumary: {weight: 1}}", r"tasks\.sumary\.user: is missing; only built-in tasks \(questions, "),
        ("tasks: {a: {user: 'Hello'}}", r"tasks\.a\.user: must contain {text} exactly once, found 0 times"),
        ("tasks: {a: {user: '{text} {text}'}}", "found 2 times"),
        ("tasks: {a: {usr: '{text}'}}", r"tasks\.a\.usr: unknown key\. Did you mean user\?"),
        ("task: {}\ntasks: {summary: }", r"task: unknown key\. Did you mean tasks\?"),
        ("tasks: {a: {user: '{text}', answer: json}}", "'json' is not one of pairs, text"),
        ("tasks: {a: {user: '{text}', answer: text}}", r"tasks\.a\.question: is missing"),
        ("tasks: {a: {user: '{text}', question: What}}", r"tasks\.a\.question: has no meaning with answer: pairs"),
        ("tasks: {summary: {options: true}}", r"tasks\.summary\.options: has no meaning with answer: text"),
        ("tasks: {summary: {question: [1]}}", r"tasks\.summary\.question: wordings must be text"),
        ("tasks: {summary: {sampling: {top_q: 1}}}", r"sampling\.top_q: unknown key\. Did you mean top_p\?"),
        ("tasks: {summary: {sampling: {top_k: 1.5}}}", r"sampling\.top_k: expected a number, found 1\.5"),
        ("sampling: {top_p: 2}\ntasks: {summary: }", r"sampling\.top_p: expected above 0 and at most 1, found 2"),
        ("tasks: {summary: {examples: [{text: a}]}}", r"examples\[1\]: expected the keys text and response"),
        ("tasks: {questions: {examples: [{text: a, pairs: [{question: b}]}]}}", r"examples\[1\]\.pairs: expected"),
    ],
)  # fmt: skip
def test_mistakes_are_named(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(RecipeError, match=rf"own\.yaml: .*{message}"):
        read(tmp_path, content)


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as error:
        read(tmp_path, "tasks: {a: {user: x}, b: {user: y}}")
    assert len(str(error.value).splitlines()) == 2


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.yaml: cannot be read"):
        read_tasks(tmp_path / "none.yaml")
