"""Benchmarks with demonstrations that all questions share, against the library's own few-shot prompts."""

from __future__ import annotations

import json
import shutil

import pytest
from click.testing import CliRunner

from megatron_ipt.cli import cli
from megatron_ipt.errors import InputError
from megatron_ipt.evaluation.harness import lm_evaluation, run
from megatron_ipt.evaluation.harness.config import HarnessConfig
from megatron_ipt.evaluation.harness.in_context import Answerer
from megatron_ipt.evaluation.in_context.config import InContextConfig
from tests.evaluation.conftest import TASKS

NAME = "everyday_science"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    pytest.importorskip("lm_eval")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


def listened(monkeypatch, method="loglikelihood"):
    """Requests and results of every benchmark that is measured after this."""
    seen = []
    opened = lm_evaluation.open_model

    def open_and_listen(*arguments):
        model = opened(*arguments)
        real = getattr(model, method)

        def listening(requests):
            results = real(requests)
            seen.extend(
                (request.doc_id, request.idx, request.args[0], result) for request, result in zip(requests, results)
            )
            return results

        setattr(model, method, listening)
        return model

    monkeypatch.setattr(lm_evaluation, "open_model", open_and_listen)
    return seen


def measured(folder, shown, task=NAME, path=TASKS, **settings):
    config = HarnessConfig(tasks=[task], include_path=str(path), **settings)
    return run.run(config, folder, run.load(config), shown)


def test_concatenated_they_are_the_prompts_of_the_library(tiny_model, monkeypatch, tmp_path):
    """The library draws its own examples: of a split with two, both, in one of two orders."""
    for file in TASKS.iterdir():
        shutil.copy(file, tmp_path)
    lines = (TASKS / f"{NAME}_examples.jsonl").read_text().splitlines()
    (tmp_path / f"{NAME}_examples.jsonl").write_text("\n".join(lines[:1]) + "\n")
    text = (tmp_path / f"{NAME}.yaml").read_text()
    (tmp_path / f"{NAME}.yaml").write_text(text + 'description: "Answer the questions.\\n\\n"\n')
    seen = listened(monkeypatch)
    plain = measured(tiny_model, None, f"{NAME}:1", tmp_path)
    shared = measured(tiny_model, InContextConfig(mode="concat", demonstrations=1), NAME, tmp_path)
    assert shared["tasks"][NAME]["shots"] == 1 and shared["tasks"][NAME]["questions"] == 16
    assert shared["tasks"][NAME]["metrics"] == plain["tasks"][NAME]["metrics"]
    half = len(seen) // 2
    assert half == 16 * 4
    for one, other in zip(sorted(seen[:half]), sorted(seen[half:])):
        assert one[3][0] == pytest.approx(other[3][0], abs=2e-3) and one[3][1] == other[3][1]
        assert one[2].startswith("Answer the questions.") and one[2].endswith(other[2]) and len(other[2]) < len(one[2])
    assert shared["in_context"]["tasks"][NAME]["groups"] == 1


def test_structured_groups_are_counted(tiny_model):
    shown = InContextConfig(mode="structured", demonstrations=4, groups=2)
    result = measured(tiny_model, shown, limit=3)
    found = result["in_context"]["tasks"][NAME]
    assert (found["demonstrations"], found["groups"]) == (4, 2) and found["tokens"] > found["longest_group"]
    assert result["in_context"]["mode"] == "structured"


def test_tasks_are_as_before_afterwards(tiny_model):
    (loaded,) = run.load(HarnessConfig(tasks=[NAME], include_path=str(TASKS)))
    (task,) = lm_evaluation.tasks_in(loaded)
    sampler = task.sampler
    model = lm_evaluation.open_model(tiny_model, "fp32", 4, True)
    answerer = Answerer(model, InContextConfig(mode="concat", demonstrations=2), True)
    with pytest.raises(ZeroDivisionError), answerer.prepared([task]):
        assert task.sampler is not sampler
        raise ZeroDivisionError
    assert task.sampler is sampler


GENERATING = """
task: capitals
dataset_path: json
dataset_kwargs: {data_files: {test: test.jsonl, train: train.jsonl}}
output_type: generate_until
test_split: test
fewshot_split: train
doc_to_text: "Question: {{q}}\\nAnswer:"
doc_to_target: "{{a}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 6, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


def capitals(folder, text=GENERATING):
    (folder / "capitals.yaml").write_text(text)
    for name, rows in (("test", "water salt ice"), ("train", "bread air oil")):
        lines = [json.dumps({"q": f"What is {word}?", "a": f"It is {word}."}) for word in rows.split()]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")


def test_answers_are_generated_up_to_the_stop(tiny_model, tmp_path, monkeypatch):
    capitals(tmp_path, GENERATING + 'description: "Answer.\\n\\n"\n')
    seen = listened(monkeypatch, "generate_until")
    greedy = InContextConfig(mode="concat", demonstrations=1, beams=1)
    (tmp_path / "train.jsonl").write_text(json.dumps({"q": "What is air?", "a": "It is air."}) + "\n")
    measured(tiny_model, None, "capitals:1", tmp_path)
    result = measured(tiny_model, greedy, "capitals", tmp_path)
    assert result["tasks"]["capitals"]["metric"] == "exact_match" and len(seen) == 6
    for one, other in zip(sorted(seen[:3]), sorted(seen[3:])):
        assert one[3].strip() == other[3].strip() and "\n" not in other[3]
        assert one[2].endswith(other[2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("fewshot_split: train\n", ""), "its demonstrations are not kept apart"),
        (("fewshot_split: train", "fewshot_split: test"), "its demonstrations are not kept apart"),
        (("output_type: generate_until", "description: 'About {{q}}'\noutput_type: generate_until"), "its description"),
        (("do_sample: false", "do_sample: true, temperature: 0.7"), "its answers are sampled"),
    ],
)
def test_tasks_that_cannot_share_are_refused(tiny_model, tmp_path, change, message):
    capitals(tmp_path, GENERATING.replace(*change))
    with pytest.raises(InputError, match=f"benchmark capitals: {message}"):
        measured(tiny_model, InContextConfig(mode="structured", demonstrations=2), "capitals", tmp_path)


def test_too_few_are_refused(tiny_model):
    with pytest.raises(InputError, match=f"benchmark {NAME}: 99 demonstrations are asked for"):
        measured(tiny_model, InContextConfig(mode="structured", demonstrations=99))


def test_the_command(tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["benchmark", str(tiny_model), "--include-path", str(TASKS), "--tasks", NAME, "--limit", "2", "--json"]
    arguments += ["--in-context", "mode=structured", "--in-context", "demonstrations=3"]
    outcome = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert json.loads(outcome.stdout)["tasks"][NAME]["shots"] == 3
