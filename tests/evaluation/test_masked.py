"""The loss over masked-in tokens held against transformers' own loss with labels of -100."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from megatron_ipt.evaluation.config import EvaluationConfig  # noqa: E402
from megatron_ipt.evaluation.language_model import LanguageModel  # noqa: E402
from megatron_ipt.evaluation.masked import masked_loss, masked_targets  # noqa: E402
from megatron_ipt.evaluation.measures import Measures  # noqa: E402
from megatron_ipt.files import write_json  # noqa: E402
from megatron_ipt.tokens.dataset.indexed import IndexedWriter  # noqa: E402
from megatron_ipt.tuning.rows import RowReader, RowWriter  # noqa: E402

# Rows of several sequences each, of different lengths, so that batches are padded.
LENGTHS = ([7, 12, 5], [30], [4, 4], [11, 19], [3])


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    generator = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("rows")
    with RowWriter(folder / "valid-tasks", np.uint16) as writer:
        for lengths in LENGTHS:
            mask = generator.random(sum(lengths)) < 0.4
            mask[np.concatenate([[0], np.cumsum(lengths)[:-1]])] = False
            writer.add(generator.integers(3, 380, sum(lengths)), mask, np.array(lengths, np.int32))
        # Nothing of the last row is to be predicted.
        writer.add(generator.integers(3, 380, 6), np.zeros(6, bool), np.array([6], np.int32))
    write_json(
        folder / "dataset.json",
        {
            "vocab_size": 400,
            "train": [{"name": "tasks", "prefix": "valid-tasks", "tokens": 101}],
            "valid": [
                {"name": "tasks", "prefix": "valid-tasks", "loss_mask": "valid-tasks-loss-mask", "tokens": 101},
                {"name": "none", "prefix": "nowhere", "tokens": 0},
            ],
        },
    )
    return folder


def reader(rows):
    return RowReader(rows / "valid-tasks", rows / "valid-tasks-loss-mask")


@pytest.fixture(scope="module")
def model(tiny_model):
    return LanguageModel(tiny_model)


def loss_by_transformers(model, pieces):
    """Sum of the losses and number of predicted tokens, one piece at a time."""
    total, count = 0.0, 0
    for ids, mask in pieces:
        labels = torch.tensor(np.where(mask, ids, -100))[None]
        predicted = int(mask[1:].sum())
        if predicted:
            total += model.model(torch.tensor(ids)[None], labels=labels).loss.item() * predicted
            count += predicted
    return total, count


@pytest.mark.parametrize("apart", [False, True])
def test_the_loss_is_that_of_transformers(rows, model, apart):
    found = reader(rows)
    pieces = []
    for index in range(len(found)):
        row = found[index]
        cuts = np.cumsum(row.lengths)[:-1] if apart else []
        pieces += zip(np.split(row.ids, cuts), np.split(row.mask, cuts))
    total, count = loss_by_transformers(model, pieces)
    result = masked_loss(model, found, 10_000, apart, "test")
    assert result["tokens"] == count == len(masked_targets(found, 10_000))
    assert result["loss"] == pytest.approx(total / count, abs=1e-5)
    assert result["perplexity"] == pytest.approx(math.exp(total / count), rel=1e-4)


def test_sequences_of_a_row_see_each_other_unless_kept_apart(rows, model):
    together, apart = (masked_loss(model, reader(rows), 10_000, apart, "test") for apart in (False, True))
    assert together["tokens"] == apart["tokens"] and abs(together["loss"] - apart["loss"]) > 1e-4


def test_the_limit_ends_with_the_row_that_reaches_it(rows):
    found = reader(rows)
    first_two = np.concatenate([found[index].ids[found[index].mask] for index in (0, 1)])
    # The first row has 24 tokens; the second one passes 25.
    assert masked_targets(found, 25).tolist() == first_two.tolist()
    assert masked_targets(found, 24).tolist() == found[0].ids[found[0].mask].tolist()


def test_the_stage_measures_masked_sets_over_their_mask(rows, model, tmp_path):
    measures = Measures(EvaluationConfig(perplexity_tokens=10_000), rows, 64, isolated=False)
    assert list(measures.held_out) == ["tasks"]
    result = measures.run(model, tmp_path)["perplexity"]["tasks"]
    assert result["loss"] == masked_loss(model, reader(rows), 10_000, False, "test")["loss"]
    # Add-one frequencies over 400 ids of the 101 + 6 - 6 tokens that are all in the training data as well.
    ids = np.concatenate([reader(rows)[index].ids for index in range(len(LENGTHS) + 1)])
    frequencies = (np.bincount(ids, minlength=400) + 1) / (len(ids) + 400)
    targets = masked_targets(reader(rows), 10_000)
    assert result["unigram_entropy"] == pytest.approx(float(-np.log(frequencies[targets]).mean()))


def test_plain_sets_are_read_as_a_stream(tiny_model, model, tmp_path):
    ids = np.random.default_rng(1).integers(3, 380, 70)
    with IndexedWriter(tmp_path / "valid-raw", np.uint16) as writer:
        writer.add(ids, np.array([30, 40], np.int32))
    entry = {"name": "raw", "prefix": "valid-raw", "tokens": 70}
    write_json(tmp_path / "dataset.json", {"vocab_size": 400, "train": [entry], "valid": [entry]})
    found = Measures(EvaluationConfig(), tmp_path, 32, isolated=False).run(model, tmp_path)["perplexity"]["raw"]
    assert found["loss"] == model.loss(ids, 32, "test")["loss"] and found["tokens"] == 69
