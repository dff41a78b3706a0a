"""Questions after demonstrations against plain passes over whole prompts; the curve; the command."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner

from megatron_ipt.cli import cli
from megatron_ipt.errors import InputError, StageError
from megatron_ipt.evaluation.in_context import curve
from megatron_ipt.evaluation.in_context.config import InContextConfig
from megatron_ipt.evaluation.in_context.demonstrations import choose
from megatron_ipt.evaluation.in_context.questions import measure, read_task
from megatron_ipt.evaluation.language_model import LanguageModel
from megatron_ipt.evaluation.questions import measure as measure_without, read_questions
from megatron_ipt.files import read_json
from tests.evaluation.conftest import TASKS

OPTIONS = ["water", "the air", "salt"]


@pytest.fixture(scope="module")
def model(tiny_model):
    return LanguageModel(tiny_model)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Questions with three options, and demonstrations, from sentences that the tokenizer knows."""
    folder = tmp_path_factory.mktemp("task")
    lines = [line for path in sorted(TASKS.glob("*.jsonl")) for line in path.read_text().splitlines()]
    records = [
        {"context": record["options"][0], "question": record["question"], "answer": OPTIONS[n % 3], "options": OPTIONS}
        for n, record in enumerate(map(json.loads, lines))
    ]
    for name, rows in (("test", records[:6]), ("train", records[6:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def task_of(files):
    return read_task("few", read_questions(files / "test.jsonl"), str(files / "train.jsonl"))


def by_hand(model, prompt, question):
    """Log-likelihoods of the options after ids ``prompt``, the answer first, by plain passes; and their tokens."""
    rows = []
    for option in [question.answer, *(text for text in question.options if text != question.answer)]:
        ids = model.tokenizer(f" {option}", add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logs = model.model(torch.tensor([[*prompt, *ids]])).logits[0].double().log_softmax(-1)
        total = sum(logs[len(prompt) - 1 + place, token].item() for place, token in enumerate(ids))
        rows.append((total, len(ids)))
    return rows


@pytest.mark.parametrize("mode", ["none", "concat"])
def test_figures_are_those_of_plain_prompts(model, files, mode):
    task = task_of(files)
    tokenizer = model.tokenizer
    head = [1]
    if mode == "concat":
        for place in choose(4, len(task.pool), 5, "x"):
            shown = task.pool[place]
            for part in (shown.prompt, f" {shown.answer}", "\n\n"):
                head += tokenizer(part, add_special_tokens=False)["input_ids"]
    loss, tokens, right, right_per_token = 0.0, 0, 0, 0
    for question in task.questions:
        prompt = [*head, *tokenizer(question.prompt, add_special_tokens=False)["input_ids"]]
        rows = by_hand(model, prompt, question)
        loss, tokens = loss - rows[0][0], tokens + rows[0][1]
        right += rows[0][0] > max(total for total, _ in rows[1:])
        right_per_token += rows[0][0] / rows[0][1] > max(total / size for total, size in rows[1:])
    figures = measure(model, task, InContextConfig(mode=mode, demonstrations=4, seed=5))
    assert figures["answer_loss"] == pytest.approx(loss / tokens, abs=1e-4)
    assert (figures["accuracy"], figures["accuracy_per_token"]) == (right / 6, right_per_token / 6)
    assert figures["in_context"]["tokens"] == (len(head) if mode == "concat" else 0)
    if mode == "none":
        plain = measure_without(model, list(task.questions), 512, "test")
        assert {**figures, "in_context": 0} == pytest.approx({**plain, "in_context": 0}, abs=1e-4)


def test_structured_with_one_group_is_concat_and_with_two_is_not(model, files):
    def losses(**settings):
        return measure(model, task_of(files), InContextConfig(demonstrations=6, **settings))["answer_loss"]

    concat = losses(mode="concat")
    assert losses(mode="structured") == losses(mode="structured", groups=1) == concat
    assert abs(losses(mode="structured", groups=3) - concat) > 1e-3
    limited = measure(model, task_of(files), InContextConfig(mode="structured", demonstrations=6, group_tokens=150))
    assert limited["in_context"]["groups"] > 1 and limited["in_context"]["longest_group"] <= 150
    assert limited["answer_loss"] == losses(mode="structured", groups=limited["in_context"]["groups"])


def test_more_than_the_context_is_a_matter_of_groups(model, files):
    """Twelve demonstrations have some 700 tokens, the model's context 512."""
    task = task_of(files)
    with pytest.raises(InputError, match=r"train.jsonl: 12 demonstrations have \d+ tokens; in 1 group"):
        measure(model, task, InContextConfig(mode="concat", demonstrations=12))
    shown = measure(model, task, InContextConfig(mode="structured", demonstrations=12))["in_context"]
    assert shown["groups"] > 1 and shown["tokens"] > 512 > shown["longest_group"]
    with pytest.raises(InputError, match=r"train.jsonl: 99 demonstrations are asked for, but it has \d\d;"):
        measure(model, task, InContextConfig(mode="structured", demonstrations=99))


def test_answers_are_generated(model, files):
    greedy = InContextConfig(mode="concat", demonstrations=2, beams=1)
    figures = measure(model, task_of(files), greedy, answer_tokens=6)
    assert 0 <= figures["f1"] <= 1 and figures["exact_match"] <= figures["f1"]
    beams = measure(model, task_of(files), InContextConfig(mode="structured", demonstrations=4, groups=2), 6)
    assert beams.keys() == figures.keys()


def points(**changes):
    return curve.Points(**{"modes": ["structured", "concat"], "counts": [2, 12], "seeds": [1, 2]} | changes)


def draw(tiny_model, files, output, **changes):
    return curve.draw_curve(tiny_model, torch.float32, task_of(files), InContextConfig(), points(**changes), output)


def test_the_curve_has_every_point_that_fits(tiny_model, files, tmp_path):
    results = draw(tiny_model, files, tmp_path)
    found = [(point["mode"], point["demonstrations"], point["seed"]) for point in results["points"]]
    assert found == [
        ("concat", 2, 1), ("concat", 2, 2), ("none", 0, 1), ("structured", 2, 1), ("structured", 2, 2),
        ("structured", 12, 1), ("structured", 12, 2),
    ]  # fmt: skip
    ((mode, count, reason),) = [tuple(entry.values()) for entry in results["left_out"]]
    assert (mode, count) == ("concat", 12) and "12 demonstrations have" in reason
    row = results["summary"][0]
    losses = [point["answer_loss"] for point in results["points"][:2]]
    assert row["answer_loss"]["mean"] == pytest.approx(sum(losses) / 2)
    assert row["answer_loss"]["deviation"] == pytest.approx(abs(losses[0] - losses[1]) / 2**0.5)
    assert (tmp_path / "accuracy.png").stat().st_size > 5000 and b"demonstrations" in (
        tmp_path / "accuracy.svg"
    ).read_bytes()


def test_an_interrupted_curve_goes_on(tiny_model, files, tmp_path, monkeypatch):
    whole = draw(tiny_model, files, tmp_path / "whole")
    real, calls = curve.measure, []

    def fails_at_the_third(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(curve, "measure", fails_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        draw(tiny_model, files, tmp_path / "cut")
    assert len(read_json(tmp_path / "cut" / curve.RESULTS)["points"]) == 2
    again = draw(tiny_model, files, tmp_path / "cut")
    assert len(calls) == 3 + 5 + 1  # Five that were missing, and one that does not fit, for all seeds.
    for results in (whole, again):
        for point in results["points"]:
            del point["seconds"]
    assert again == whole
    with pytest.raises(StageError, match=r"was made with other settings \(settings\)"):
        curve.draw_curve(
            tiny_model,
            torch.float32,
            task_of(files),
            InContextConfig(template="{question}"),
            points(),
            tmp_path / "cut",
        )


def test_the_command(tiny_model, files, tmp_path):
    arguments = ["in-context", str(tiny_model), "--questions", str(files / "test.jsonl"), "--demonstrations"]
    arguments += [str(files / "train.jsonl"), "--seeds", "3", "--limit", "4", "--output", str(tmp_path)]
    outcome = CliRunner().invoke(cli, [*arguments, "--counts", "2,4"], catch_exceptions=False)
    lines = outcome.stdout.splitlines()
    assert len([line for line in lines if line.startswith(("| concat", "| structured", "| none"))]) == 5
    assert lines[-1] == f"figure  {tmp_path / 'accuracy.png'}"
    assert read_json(tmp_path / curve.RESULTS)["questions"] == 4
    for wrong in (["--counts", "0"], ["--counts", "2", "--modes", "all"], ["--counts", "a"]):
        assert CliRunner().invoke(cli, [*arguments, *wrong]).exit_code == 2
