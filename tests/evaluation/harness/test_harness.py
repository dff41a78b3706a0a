"""lm-evaluation-harness as a library: real tasks over local files, held against log-likelihoods of transformers."""

from __future__ import annotations

import json
import logging
import shutil

import pytest
from click.testing import CliRunner

from megatron_ipt.cli import cli
from megatron_ipt.config import load
from megatron_ipt.errors import InputError, RecipeError, UserError
from megatron_ipt.evaluation.harness import lm_evaluation, run, table
from megatron_ipt.evaluation.harness.config import HarnessConfig
from megatron_ipt.evaluation.harness.presets import PRESETS, Benchmark, benchmarks_of
from tests.evaluation.conftest import TASKS

NAME = "everyday_science"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Prepared data sets stay out of the home folder."""
    datasets = pytest.importorskip("datasets")
    pytest.importorskip("lm_eval")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


def records(name):
    return [json.loads(line) for line in (TASKS / f"{name}.jsonl").read_text().splitlines()]


def measured(folder, task, **settings):
    config = HarnessConfig(tasks=[task], include_path=str(TASKS), **settings)
    return run.run(config, folder, run.load(config))["tasks"][NAME]


def likelihoods_by_hand(folder, add_bos):
    """Log-likelihoods of the options after each question, computed with transformers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    found = []
    for record in records(NAME):
        prompt = f"Question: {record['question']}\nAnswer:"
        start = len(tokenizer(prompt, add_special_tokens=False)["input_ids"]) + add_bos
        row = []
        for option in record["options"]:
            ids = [1] * add_bos + tokenizer(f"{prompt} {option}", add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                logs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            row.append(sum(logs[place - 1, ids[place]].item() for place in range(start, len(ids))))
        found.append(row)
    return found


def scores_by_hand(likelihoods):
    """Accuracy by likelihood, and by likelihood per character."""
    plain = per_character = 0
    for record, row in zip(records(NAME), likelihoods):
        plain += max(range(4), key=row.__getitem__) == record["answer"]
        shares = [likelihood / len(option) for likelihood, option in zip(row, record["options"])]
        per_character += max(range(4), key=shares.__getitem__) == record["answer"]
    return plain / len(likelihoods), per_character / len(likelihoods)


@pytest.mark.parametrize("add_bos", [True, False])
def test_the_score_is_that_of_the_log_likelihoods(tiny_model, add_bos, monkeypatch):
    seen = []
    opened = lm_evaluation.open_model

    def open_and_listen(*arguments):
        model = opened(*arguments)
        real = model.loglikelihood

        def loglikelihood(requests):
            results = real(requests)
            seen.extend((request.doc_id, request.idx, result[0]) for request, result in zip(requests, results))
            return results

        model.loglikelihood = loglikelihood
        return model

    monkeypatch.setattr(lm_evaluation, "open_model", open_and_listen)
    found = measured(tiny_model, NAME, add_bos_token=add_bos, batch_size=5)
    expected = likelihoods_by_hand(tiny_model, add_bos)
    assert [value for _, _, value in sorted(seen)] == pytest.approx([v for row in expected for v in row], abs=1e-3)
    plain, per_character = scores_by_hand(expected)
    assert 0 < plain < 1
    assert (found["accuracy"], found["metrics"]["acc_norm"]["value"]) == (plain, per_character)
    assert (found["shots"], found["questions"], found["metric"], found["subtasks"]) == (0, 16, "acc", {})
    # Standard error of a share, from the sample variance.
    assert found["stderr"] == pytest.approx((plain * (1 - plain) / 15) ** 0.5)


def test_bos_makes_a_difference_that_the_test_above_would_see(tiny_model):
    with_bos, without = (likelihoods_by_hand(tiny_model, add_bos) for add_bos in (True, False))
    assert abs(with_bos[0][0] - without[0][0]) > 0.01


def test_limit_and_shots(tiny_model):
    first = likelihoods_by_hand(tiny_model, True)[:5]
    assert measured(tiny_model, NAME, limit=5)["accuracy"] == scores_by_hand(first)[0]
    with_shots = measured(tiny_model, f"{NAME}:2", limit=3)
    assert (with_shots["shots"], with_shots["questions"]) == (2, 3)


def test_shots_stand_before_the_question(tiny_model):
    (loaded,) = run.load(HarnessConfig(tasks=[f"{NAME}:2"], include_path=str(TASKS)))
    model = lm_evaluation.open_model(tiny_model, "fp32", 4, True)
    asked = []
    real = model.loglikelihood
    model.loglikelihood = lambda requests: asked.extend(request.args for request in requests) or real(requests)
    lm_evaluation.measure(model, loaded, 1, 7, "test")
    worked = [f"Question: {r['question']}\nAnswer: {r['options'][r['answer']]}" for r in records(f"{NAME}_examples")]
    first, second, question = asked[0][0].split("\n\n")
    assert {first, second} < set(worked) and first != second
    assert question == f"Question: {records(NAME)[0]['question']}\nAnswer:"
    assert model.tok_encode(asked[0][0])[0] == 1


def test_groups_have_their_tasks_and_a_mean_by_size(tiny_model, tmp_path):
    for file in TASKS.iterdir():
        shutil.copy(file, tmp_path)
    text = (tmp_path / f"{NAME}.yaml").read_text()
    (tmp_path / "short.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records(NAME)[:4]))
    (tmp_path / "short.yaml").write_text(
        text.replace(f"task: {NAME}", "task: short").replace(f"{NAME}.jsonl", "short.jsonl")
    )
    (tmp_path / "both.yaml").write_text(
        f"group: both\ntask: [{NAME}, short]\n"
        "aggregate_metric_list:\n  - metric: acc\n    aggregation: mean\n    weight_by_size: true\n"
    )
    config = HarnessConfig(tasks=["both:1"], include_path=str(tmp_path))
    result = run.run(config, tiny_model, run.load(config))
    found = result["tasks"]["both"]
    parts = [found["subtasks"][name]["accuracy"] for name in (NAME, "short")]
    assert found["questions"] == 20 and found["shots"] == 1
    assert found["accuracy"] == pytest.approx((16 * parts[0] + 4 * parts[1]) / 20)
    lines = table.render(result).splitlines()
    assert lines[1].split()[:4] == ["both", "1", "20", "acc"] and lines[3].startswith("  short")


def test_the_command_prints_a_table_and_writes_json(tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # The data stand beside the task file, wherever the command runs.
    output = tmp_path / "scores.json"
    arguments = ["benchmark", str(tiny_model), "--include-path", str(TASKS), "--tasks", f"{NAME}:1", "--limit", "4"]
    outcome = CliRunner().invoke(cli, [*arguments, "--output", str(output)], catch_exceptions=False)
    stored = json.loads(output.read_text())
    score = stored["tasks"][NAME]["accuracy"]
    assert stored["dtype"] == "float32" and stored["limit"] == 4 and stored["add_bos_token"] is True
    head, row = outcome.stdout.splitlines()
    assert head.split()[:5] == ["task", "shots", "questions", "metric", "score"]
    assert row.split()[:5] == [NAME, "1", "4", "acc", f"{100 * score:.2f}"]


def test_the_preset_is_the_table_of_the_paper():
    shots = {benchmark.task: benchmark.shots for benchmark in PRESETS["paper"]}
    assert [name for name, count in shots.items() if count == 0] == ["piqa", "hellaswag", "winogrande"]
    assert {name for name, count in shots.items() if count == 5} == {
        "social_iqa", "arc_easy", "arc_challenge", "openbookqa", "boolq", "mmlu",
    }  # fmt: skip
    assert benchmarks_of("paper", ["piqa:3", "mine"])[0] == Benchmark("piqa", 3)
    assert benchmarks_of("paper", ["piqa:3", "mine"])[-1] == Benchmark("mine", None)


@pytest.mark.slow
def test_every_benchmark_of_the_preset_is_one_of_the_library():
    from lm_eval.tasks import TaskManager

    with lm_evaluation.quiet():
        assert {benchmark.task for benchmark in PRESETS["paper"]} <= set(TaskManager().all_tasks)


def test_an_unreachable_hub_names_the_task_and_what_to_do(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    (tmp_path / "far.yaml").write_text(
        "task: far\ndataset_path: nobody/nothing-at-all\noutput_type: multiple_choice\ntest_split: test\n"
        'doc_to_text: q\ndoc_to_choice: ["a"]\ndoc_to_target: 0\nmetric_list:\n  - metric: acc\n'
    )
    with pytest.raises(InputError, match=r"benchmark far: cannot download its dataset.*HF_HOME.*include_path"):
        run.load(HarnessConfig(tasks=["far"], include_path=str(tmp_path)))


def test_a_missing_local_file_names_the_task(tmp_path):
    text = (TASKS / f"{NAME}.yaml").read_text()
    (tmp_path / "task.yaml").write_text(text)
    with pytest.raises(InputError, match=f"benchmark {NAME}: cannot use its task file or data: .*{NAME}.jsonl"):
        run.load(HarnessConfig(tasks=[NAME], include_path=str(tmp_path)))


def test_what_cannot_be_asked_for(tmp_path, tiny_model, monkeypatch):
    with pytest.raises(RecipeError, match=r"tasks: 'a:b': expected TASK or TASK:SHOTS"):
        load(HarnessConfig, None, ["tasks=[a:b]"])
    with pytest.raises(RecipeError, match="include_path: nowhere: no such folder"):
        load(HarnessConfig, None, ["include_path=nowhere"])
    with pytest.raises(InputError, match=r"config\.json is missing"):
        run.run(HarnessConfig(), tmp_path, [])
    with pytest.raises(RecipeError, match="none given; use --preset or --tasks"):
        run.run(HarnessConfig(), tiny_model, [])
    monkeypatch.setattr(lm_evaluation.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install megatron-ipt\[eval\]"):
        lm_evaluation.load_benchmarks([Benchmark("x")], "")


@pytest.mark.slow
def test_an_unknown_task_suggests_the_nearest():
    config = HarnessConfig(tasks=["everyday_sience"], include_path=str(TASKS))
    with pytest.raises(RecipeError, match=r"everyday_sience: no such task .* Did you mean everyday_science\?"):
        run.load(config)


def test_task_files_are_fingerprinted_only_when_used():
    assert HarnessConfig(include_path=str(TASKS)).files() == []
    names = {path.name for path in HarnessConfig(tasks=[NAME], include_path=str(TASKS)).files()}
    assert {f"{NAME}.yaml", f"{NAME}.jsonl"} <= names


def test_the_libraries_are_quiet_only_meanwhile():
    logger = logging.getLogger("lm_eval")
    before = logger.level
    with lm_evaluation.quiet():
        assert logger.level == logging.ERROR
    assert logger.level == before
