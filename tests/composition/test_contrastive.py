"""Contrastive training: the loss against a plain sum, groups, a run that learns, and accuracies worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from megatron_ipt.cli import cli
from megatron_ipt.composition.config import EncoderConfig
from megatron_ipt.composition.encoder.contrastive import Training, contrastive_loss, step_loss, train_encoder
from megatron_ipt.composition.encoder.evaluate import BM25, accuracy, encoder_score
from megatron_ipt.composition.encoder.model import SentenceEncoder
from megatron_ipt.composition.encoder.tasks import Group, Labelled, groups, read_labelled, tasks_of
from megatron_ipt.errors import InputError
from megatron_ipt.files import atomic_jsonl, read_json
from tests.composition.conftest import TOPICS

torch = pytest.importorskip("torch")


def labelled(count: int = 12) -> list[Labelled]:
    """Texts of the topics, in two templates: the first word says which."""
    made = []
    for number, (task, words) in enumerate(TOPICS.items()):
        own = words.split()
        for place in range(count):
            text = " ".join(own[(place * 3 + step * (number + 1)) % len(own)] for step in range(5))
            made.append(Labelled(f"{('the', 'a')[place % 2]} {text} {own[place % len(own)]}", task, place % 2))
    return list(dict.fromkeys(made))


def test_equal_scores_cost_the_logarithm_of_the_contexts() -> None:
    positives = torch.zeros(3, 12, dtype=torch.bool)
    positives[0, :1], positives[1, :4], positives[2, 5:12] = True, True, True
    assert float(contrastive_loss(torch.full((3, 12), 0.7), positives)) == pytest.approx(math.log(12))


def test_the_loss_is_that_of_a_plain_sum() -> None:
    draws = np.random.default_rng(3)
    scores = draws.normal(size=(5, 9))
    positives = draws.random((5, 9)) < 0.3
    positives[:, 0] = True
    total = 0.0
    for row, own in zip(scores, positives):
        normaliser = math.log(sum(math.exp(value) for value in row))
        total -= sum(value - normaliser for value, yes in zip(row, own) if yes) / sum(own)
    found = contrastive_loss(torch.tensor(scores), torch.tensor(positives))
    assert float(found) == pytest.approx(total / 5, rel=1e-5)


def test_a_step_takes_contexts_of_other_queries_as_well(encoder: Path) -> None:
    """Two queries of one task and one of another, worked out from vectors of single texts."""
    texts = labelled()
    bees, tides, books = (next(each for each in texts if each.task == task) for task in TOPICS)
    more = [each for each in texts if each.task == "bees"]
    batch = [Group(bees, (more[1], tides)), Group(more[2], (more[3], books)), Group(tides, (texts[-1], bees))]
    loaded = SentenceEncoder(EncoderConfig(str(encoder)))
    with torch.no_grad():
        found = float(step_loss(loaded, batch, 0.1))
    contexts = list(dict.fromkeys(context for group in batch for context in group.contexts))
    total = 0.0
    for group in batch:
        one = loaded.encode([group.query.text])[0].astype(float)
        scores = [float(one @ loaded.encode([context.text])[0]) / 0.1 for context in contexts]
        normaliser = math.log(sum(math.exp(score) for score in scores))
        own = [s for s, c in zip(scores, contexts) if c.task == group.query.task and c != group.query]
        total -= sum(score - normaliser for score in own) / max(len(own), 1) if own else 0.0
    if all(any(c.task == g.query.task and c != g.query for c in contexts) for g in batch):
        assert found == pytest.approx(total / 3, rel=1e-4)
    else:
        assert math.isnan(found)


def test_groups_have_one_of_the_task_and_hard_negatives_of_the_template() -> None:
    texts = labelled()
    made = groups(texts, 7, hard=3, easy=2, purpose="x")
    assert [group.query for group in made] == texts
    for group in made:
        positive, *negatives = group.contexts
        assert positive.task == group.query.task and positive != group.query
        assert all(each.task != group.query.task for each in negatives) and len(set(negatives)) == 5
        assert all(each.template == group.query.template for each in negatives[:3])
    assert groups(list(reversed(texts)), 7, 3, 2, "x") != [] and groups(texts, 7, 3, 2, "x") == made
    # Too few of the template: others take their place.
    few = [Labelled(each.text, each.task, place) for place, each in enumerate(texts)]
    assert all(len(group.contexts) == 6 for group in groups(few, 7, 3, 2, "x"))


def test_accuracy_of_known_scores() -> None:
    texts = {name: Labelled(name, name[0], 0) for name in ("a1", "a2", "b1", "b2", "c1")}
    made = [
        Group(texts["a1"], (texts["a2"], texts["b1"])),
        Group(texts["a2"], (texts["a1"], texts["c1"])),
        Group(texts["b1"], (texts["b2"], texts["a1"], texts["c1"])),
    ]
    table = {("a1", "a2"): 2.0, ("a1", "b1"): 1.0, ("a2", "a1"): 0.0, ("a2", "c1"): 5.0}
    found = accuracy(made, lambda query, context: table.get((query, context), 1.0))
    # Right, wrong, and a tie among three.
    assert found.right == pytest.approx((1 + 0 + 1 / 3) / 3)
    assert found.by_task == {"a": 0.5, "b": pytest.approx(1 / 3)}
    shares = [1, 0, 1 / 3]
    assert found.error == pytest.approx(np.std(shares, ddof=1) / math.sqrt(3))


def test_bm25_of_a_worked_example() -> None:
    texts = ["Wax and honey", "wax, wax wax", "tide"]
    search = BM25(texts)
    mean = 7 / 3
    weight = math.log(1 + (3 - 2 + 0.5) / (2 + 0.5))
    expected = weight * 3 * 2.2 / (3 + 1.2 * (0.25 + 0.75 * 3 / mean))
    assert search.score("wax", texts[1]) == pytest.approx(expected)
    assert search.score("WAX tide", texts[2]) == pytest.approx(
        math.log(1 + (3 - 1 + 0.5) / (1 + 0.5)) * 2.2 / (1 + 1.2 * (0.25 + 0.75 / mean))
    )
    assert search.score("moon", texts[0]) == 0


def test_training_learns_the_tasks_and_is_reproducible(encoder: Path, tmp_path: Path) -> None:
    texts = labelled()
    made = groups(texts, 1, hard=3, easy=1, purpose="training")
    training = Training(epochs=30, batch_size=8, lr=2e-2, temperature=0.1)
    losses = train_encoder(encoder, tmp_path / "one", made, training, lambda step, loss: None)
    assert train_encoder(encoder, tmp_path / "two", made, training, lambda step, loss: None) == losses
    # The least possible loss is the logarithm of the positives of a batch, here about 8.
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.15
    measured = groups(texts, 1, hard=3, easy=1, purpose="evaluated")
    rights = {}
    for name, folder in (("raw", encoder), ("trained", tmp_path / "one")):
        loaded = SentenceEncoder(EncoderConfig(str(folder)))
        # Used as the raw one is.
        assert (loaded.recipe.pooling, loaded.recipe.normalize, loaded.max_tokens) == ("mean", True, 24)
        rights[name] = accuracy(measured, encoder_score(loaded, measured)).right
    assert rights["trained"] > max(0.9, rights["raw"])
    assert read_json(tmp_path / "one" / "contrastive.json")["losses"] == losses


def write(path: Path, texts: list[Labelled]) -> Path:
    with atomic_jsonl(path) as writer:
        for each in texts:
            writer.write({"text": each.text, "task": each.task, "template": each.template})
    return path


def test_texts_are_read_from_records_and_pairs(tmp_path: Path) -> None:
    texts = labelled()
    path = write(tmp_path / "texts.jsonl", texts)
    found = read_labelled([path], 3, 5, tmp_path)
    assert tasks_of(found) == dict.fromkeys(TOPICS, 5) and set(found) <= set(texts)
    pairs = tmp_path / "gsm.jsonl"
    with atomic_jsonl(pairs) as writer:
        for number in range(40):
            writer.write({"question": f"How many are {number} and one?", "answer": f"{number} + 1.\n#### {number + 1}"})
    both = read_labelled([path, pairs], 3, 30, tmp_path)
    assert tasks_of(both)["math word problem"] == 30
    problems = [each for each in both if each.task == "math word problem"]
    assert len({each.template for each in problems}) > 3 and all("How many are" in each.text for each in problems)


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "a", "task": "x"}\n{"text": "b", "task": 7}\n')
    with pytest.raises(InputError, match=r"texts\.jsonl:2: expected a text"):
        read_labelled([path], 3, 5, tmp_path)
    path.write_text('{"text": "a", "task": "x"}\n{"text": "b", "task": "x"}\n')
    with pytest.raises(InputError, match="1 tasks with two texts or more"):
        read_labelled([path], 3, 5, tmp_path)
    path.write_text("")
    with pytest.raises(InputError, match="is empty"):
        read_labelled([path], 3, 5, tmp_path)


def test_the_commands(encoder: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "texts.jsonl", [*labelled(), *(Labelled(f"is {w} with", "other", 0) for w in "abcdefg")])
    more = write(tmp_path / "more.jsonl", [Labelled(f"by {w} for", "last", 1) for w in "abcdefg"])

    def call(*words: object) -> tuple[int, str]:
        result = CliRunner().invoke(cli, ["encoder", *map(str, words)])
        return result.exit_code, result.output + (f"{result.exception}" if result.exception else "")

    output = tmp_path / "trained"
    held_out = ["--held-out", "other", "--held-out", "last"]
    options = [path, more, "--hard", 2, *held_out]
    train = ["train", *options, "--model", encoder, "--output", output, "--batch-size", 8]
    status, said = call(*train)
    assert status == 0 and "queries of 3 tasks" in said, said
    status, said = call(*train)
    assert status != 0 and "--overwrite" in said
    status, said = call("evaluate", *options, "--model", encoder, "--model", output)
    assert status == 0 and "held-out tasks: 14 queries of 2 tasks" in said and "BM25" in said and str(output) in said
    status, said = call("evaluate", path, "--model", encoder, "--held-out", "none")
    assert status != 0 and "not a task of these files" in said
    status, said = call("evaluate", path, "--model", encoder, "--held-out", "other")
    assert status != 0 and "at least two must be on either side" in said
