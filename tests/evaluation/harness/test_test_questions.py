"""The questions of benchmarks: what a task says they are, of which of its sets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megatron_ipt.decontamination.config import DecontaminateConfig
from megatron_ipt.decontamination.questions import questions_of
from megatron_ipt.errors import InputError
from tests.conftest import REPOSITORY

pytest.importorskip("lm_eval")
pytest.importorskip("datasets")

from megatron_ipt.evaluation.harness.test_questions import read

RECORDS = [
    {
        "question": "Where do bees live?",
        "sentence": "They live in hives.",
        "options": ["in hives", "in nests"],
        "answer": 0,
    },
    {"question": "What do they eat?", "sentence": "They eat honey.", "options": ["bread", "honey"], "answer": 1},
]


def write_task(folder: Path, lines: str, sets: tuple[str, ...] = ("test",)) -> Path:
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(sets):
        rows = [record | {"question": record["question"].replace("?", f" {number}?")} for record in RECORDS]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = "".join(f"    {name}: {name}.jsonl\n" for name in sets)
    splits = "".join(f"{name}_split: {name}\n" for name in sets)
    (folder / "bees.yaml").write_text(
        f"task: bees\ndataset_path: json\ndataset_kwargs:\n  data_files:\n{data}{splits}output_type: multiple_choice\n"
        f'doc_to_choice: "{{{{options}}}}"\ndoc_to_target: answer\nmetric_list:\n  - metric: acc\n{lines}'
    )
    return folder


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ('doc_to_text: "Question: {{question}}\\nAnswer:"\n', "Where do bees live 0?"),
        ('doc_to_text: "Q: {{sentence}} {{question}}\\nA:"\n', "They live in hives. Where do bees live 0?"),
        ('doc_to_text: x\nshould_decontaminate: true\ndoc_to_decontamination_query: sentence\n', "They live in hives."),
        (
            'doc_to_text: x\nshould_decontaminate: true\n'
            'doc_to_decontamination_query: "Question: {{question}}\\nAnswer:"\n',
            "Where do bees live 0?",
        ),
        ("doc_to_text: answer\n", "in hives"),
    ],
)  # fmt: skip
def test_what_the_question_is(tmp_path: Path, lines: str, expected: str) -> None:
    found = list(read(["bees"], str(write_task(tmp_path / "tasks", lines)), True))
    assert found[0] == ("bees (test set)", 1, expected)
    assert len(found) == 2


def test_all_sets_or_only_what_is_evaluated(tmp_path: Path) -> None:
    lines = 'doc_to_text: "{{question}}"\n'
    folder = write_task(tmp_path / "tasks", lines, ("training", "validation", "test"))
    found = [(name, number) for name, number, _ in read(["bees:5"], str(folder), True)]
    assert found == [(f"bees ({name} set)", number) for name in ("test", "validation", "training") for number in (1, 2)]
    assert {name for name, _, _ in read(["bees"], str(folder), False)} == {"bees (test set)"}
    without = write_task(tmp_path / "more", lines, ("training", "validation"))
    assert {name for name, _, _ in read(["bees"], str(without), False)} == {"bees (validation set)"}


def test_a_task_without_questions(tmp_path: Path) -> None:
    # Nor is the number of the right option one.
    folder = write_task(tmp_path / "tasks", 'doc_to_text: " "\n')
    with pytest.raises(InputError, match="benchmark bees: its task file gives no question"):
        list(read(["bees"], str(folder), True))


def test_the_example_of_this_package_through_the_section() -> None:
    config = DecontaminateConfig(
        benchmarks=True,
        tasks=["everyday_science"],
        include_path=str(REPOSITORY / "examples/tasks"),
        tasks_reader="megatron_ipt.evaluation.harness.test_questions:read",
    )
    lines = (REPOSITORY / "examples/tasks/everyday_science.jsonl").read_text().splitlines()
    assert [question.text for question in questions_of(config)] == [json.loads(line)["question"] for line in lines]
