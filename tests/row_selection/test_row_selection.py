"""Rows of tokens, cut, scored and kept as worked out by hand; rows of tuning; what is refused."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_ipt.errors import InputError, RecipeError, StageError
from megatron_ipt.files import read_json, read_jsonl, write_json
from megatron_ipt.pipeline import run_action, run_one, stage_of
from megatron_ipt.recipe import Recipe
from megatron_ipt.row_selection.rows import TokenRows
from megatron_ipt.stages.page import StageRecord
from megatron_ipt.tuning.rows import RowReader, RowWriter
from tests.selection.conftest import LETTERS, Build, letters, run, scorer_of, unigrams

Make = Callable[..., Recipe]
TEXTS = {"d1": "baab", "d2": "ca"}
"""As tokens baabEcaE, and so in rows of three predicted tokens: baab, bEca, aE."""


@pytest.fixture
def make(build: Build, letter_tokenizer: Path) -> Make:
    """A recipe whose rows are scored by tables of letters."""

    def recipe(
        texts: Any = TEXTS, scorers: Any = None, selection: Any = None, seq_length: int = 3, **sections: Any
    ) -> Recipe:
        scorers = {name: scorer_of(letter_tokenizer, each) for name, each in (scorers or unigrams()).items()}
        for scorer in scorers.values():
            del scorer["append_eod"]
        rows = {"scorers": scorers, "seq_length": seq_length, "rows_per_shard": 2} | sections.pop("rows", {})
        tokens = {
            "tokenizer": {"kind": "huggingface", "path": str(letter_tokenizer)}, "prepend_bos": False,
        }  # fmt: skip
        skip = ["synthesis", "augment", "training", "export", "evaluation", "report"]
        keys = {"scoring": None, "row_scoring": rows, "tokens": tokens, "skip": skip}
        keys["row_selection"] = {"rule": "difference", "share": 0.67, "seq_length": seq_length} | (selection or {})
        sections.setdefault("corpus", {})
        return build(texts, {}, {}, **(keys | sections))

    return recipe


def kept(folder: Path) -> list[tuple[str, str]]:
    """(tokens, those that are predicted) of every row."""
    reader = RowReader(folder / "train", folder / "train-loss-mask")
    rows = [reader[number] for number in range(len(reader))]
    return [(letters(row.ids.tolist()), letters(row.ids[row.mask].tolist())) for row in rows]


def test_rows_are_cut_scored_and_kept_as_by_hand(make: Make) -> None:
    folder = run(make())
    scores = np.concatenate([np.load(path) for path in sorted((folder / "row_scoring/teacher").glob("*.npy"))])
    # Teacher: a .4, others .2. A token after an end of document does not count.
    assert scores["tokens"].tolist() == [3, 2, 1]
    assert scores["nll"] == pytest.approx([-math.log(0.4 * 0.4 * 0.2), -math.log(0.2 * 0.4), -math.log(0.2)])
    details = read_json(folder / "row_selection/selection.json")
    assert [round(sample["score"] / math.log(2), 6) for sample in details["samples"]["top"]] == [0.666667, 0.5, 0.0]
    assert [sample["id"] for sample in details["samples"]["top"]] == ["train:0", "train:1", "train:2"]
    # Two of three: 0.67 of them is 2.01.
    assert kept(folder / "row_selection") == [("baab", "aab"), ("bEca", "Ea")]
    left_out = list(read_jsonl(folder / "row_selection/left_out/train-00001.jsonl"))
    assert [(row["id"], row["reason"]) for row in left_out] == [("train:2", "below the cut")]
    counts = read_json(folder / "row_selection/manifest.json")["counts"]
    assert counts["train"] == {"documents": 2, "tokens": 8, "loss_tokens": 5}
    assert (counts["kept"], counts["left_out_rows"], counts["dropped"]) == (2, 1, {"below the cut": 1})


def test_the_folder_is_token_data(make: Make) -> None:
    texts = {f"d{number}": "abc"[number % 3] * 9 for number in range(40)}
    folder = run(make(texts, corpus={"valid_share": 0.2}))
    before, after = (read_json(folder / name / "dataset.json") for name in ("tokens", "row_selection"))
    assert after["valid"] == before["valid"] and before["valid"][0]["documents"] > 2
    assert {name: value for name, value in after.items() if name != "train"} == {
        name: value for name, value in before.items() if name != "train"
    }
    for suffix in (".bin", ".idx"):
        name = before["valid"][0]["prefix"] + suffix
        assert (folder / "row_selection" / name).read_bytes() == (folder / "tokens" / name).read_bytes()
    (entry,) = after["train"]
    assert entry["seq_length"] == 3 and entry["documents"] == len(kept(folder / "row_selection"))
    assert (folder / "row_selection" / after["tokenizer"] / "tokenizer.json").is_file()


def test_every_token_but_the_first_is_predicted_once(make: Make) -> None:
    texts = {f"d{number}": LETTERS[number % 3] * (number % 7 + 1) for number in range(60)}
    everything = {"rule": "random", "share": 1.0, "eod_mask": False}
    folder = run(make(texts, selection=everything, seq_length=5, row_scoring=None))
    rows = TokenRows(folder / "tokens", 5, 7)
    stream = letters(rows.datasets["train"]._reader.tokens.tolist())
    assert "".join(predicted for _, predicted in kept(folder / "row_selection")) == stream[1:]
    assert sum(len(rows.numbers(shard)) for shard in rows.shards()) == len(kept(folder / "row_selection"))


def test_sources_are_domains(make: Make, tmp_path: Path) -> None:
    (tmp_path / "more.jsonl").write_text('{"text": "cccccccc"}\n' * 6)
    tokens = {"sources": {"raw": {}, "more": {"inputs": [str(tmp_path / "more.jsonl")], "valid_share": 0.0}}}
    recipe = make({f"d{n}": "aaaaaaa" for n in range(6)}, selection={"domain_minimum": 0.4, "share": 0.5})
    recipe.tokens.sources = type(recipe.tokens)(**{"sources": {}}).sources | _sources(tokens)
    folder = run(recipe)
    found = read_json(folder / "row_selection/selection.json")["by_domain"]
    assert found.keys() == {"raw", "more"}
    assert found["more"]["kept"] >= 0.4 * found["more"]["rows"] - 1 and found["raw"]["kept"] > found["more"]["kept"]
    sources = np.load(folder / "row_selection/train.sources.npy")
    counts = read_json(folder / "row_selection/manifest.json")["counts"]["train_by_source"]
    assert np.bincount(sources).tolist() == [counts[name]["documents"] for name in counts]


def _sources(tokens: dict[str, Any]) -> dict[str, Any]:
    from megatron_ipt.tokens.config import SourceConfig

    return {name: SourceConfig(**keys) for name, keys in tokens["sources"].items()}


def test_shares_of_the_work_give_the_same_bytes(make: Make, tmp_path: Path) -> None:
    texts = {f"d{number}": LETTERS[number % 4] * (number % 5 + 1) for number in range(30)}
    whole = run(make(texts, output_dir=str(tmp_path / "whole")))
    parts = make(texts, output_dir=str(tmp_path / "parts"))
    run(parts, until="tokens")
    stage = stage_of(parts, "score-rows")
    run_one(stage, parts, unit="reference", shard=(1, 2))
    run_one(stage, parts, shard=(2, 3))
    folder = run(parts)
    for pattern in ("row_scoring/*/*.npy", "row_selection/*.bin", "row_selection/*.idx", "row_selection/left_out/*"):
        files = sorted(path.relative_to(whole) for path in whole.glob(pattern))
        assert files
        assert [(whole / file).read_bytes() for file in files] == [(folder / file).read_bytes() for file in files]


def test_a_dry_run_and_what_is_shown(make: Make) -> None:
    from megatron_ipt.selection.findings.report import part
    from megatron_ipt.selection.findings.text import decision_text, samples_text

    recipe = make()
    folder = run(recipe, until="row_scoring")
    stage = stage_of(recipe, "select-rows")
    found = run_action(stage, recipe, next(action for action in stage.actions if action.option == "--dry-run"))
    assert "2 of 3 training rows would be kept" in decision_text(found)
    assert not (folder / "row_selection").exists()
    run(recipe)
    found = run_action(stage, recipe, next(action for action in stage.actions if action.option == "--show"))
    assert "train:2" in samples_text(found)
    shown = part(StageRecord(stage, folder / "row_selection", read_json(folder / "row_selection/manifest.json")))
    assert "training rows" in repr(shown)


def test_scorers_with_another_tokenizer_or_too_little_room_are_refused(make: Make, tmp_path: Path) -> None:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    other = Tokenizer(
        models.WordLevel({letter: place for place, letter in enumerate(reversed(LETTERS))}, unk_token="w")
    )
    other.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    other.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "E"}')
    scorers = unigrams()
    scorers["reference"]["generation"] = {"tokenizer": str(tmp_path)}
    with pytest.raises(RecipeError, match=r"row_scoring\.scorers\.reference.*another tokenizer than the rows"):
        run(make(scorers=scorers))
    with pytest.raises(RecipeError, match=r"context_length: 128 is less than the row_scoring\.seq_length"):
        run(make(seq_length=128, output_dir=str(tmp_path / "long")))
    with pytest.raises(RecipeError, match=r"row_scoring\.scorers\.teacher\.prepend_bos: has no effect on rows"):
        make(scorers={"teacher": {"prepend_bos": False}})


def test_scores_of_other_rows_are_refused(make: Make, tmp_path: Path) -> None:
    first = run(make(output_dir=str(tmp_path / "first")))
    texts = {"d1": "baab", "d2": "ab"}
    scored_in = {"scored_in": str(first / "row_scoring")}
    with pytest.raises(StageError, match=r"are of other data than .*score-rows"):
        run(make(texts, selection=scored_in, row_scoring=None, output_dir=str(tmp_path / "second")))
    again = make(selection=scored_in | {"share": 0.34}, row_scoring=None, output_dir=str(tmp_path / "third"))
    assert kept(run(again) / "row_selection") == [("baab", "aab")]


@pytest.mark.slow
def test_training_reads_what_is_kept(make: Make) -> None:
    """Rows are samples: as long as the rows, each once an epoch; the loss by source is of the held-out documents."""
    pytest.importorskip("megatron.core", reason="training needs Megatron-Core")
    texts = {f"d{number}": "abca"[number % 3 :] * (number % 5 + 2) for number in range(60)}
    training = {
        "model": {"preset": "tiny", "num_layers": 1, "hidden_size": 32, "ffn_hidden_size": 64},
        "steps": 4, "micro_batch_size": 2, "global_batch_size": 4, "logging": {"tensorboard": False},
    }  # fmt: skip
    skip = ["synthesis", "augment", "export", "evaluation", "report"]
    folder = run(make(texts, seq_length=7, corpus={"valid_share": 0.2}, training=training, skip=skip))
    counts = read_json(folder / "training/manifest.json")["counts"]
    assert counts["tokens"] == 4 * 4 * 7
    assert "raw" in counts["valid"] and counts["final_loss"] > 0


def test_rows_that_are_packed_already_stay_as_they_are(tmp_path: Path, letter_tokenizer: Path) -> None:
    shutil.copytree(letter_tokenizer, tmp_path / "tokenizer")
    with RowWriter(tmp_path / "train", np.uint16) as writer:
        writer.add(np.array([0, 1, 2, 3, 0, 1]), np.array([0, 1, 1, 0, 0, 1]), np.array([4, 2], np.int32))
        writer.add(np.array([2, 2]), np.array([1, 1]), np.array([2], np.int32))
    entry = {"name": "tuning", "prefix": "train", "loss_mask": "train-loss-mask"}
    write_json(tmp_path / "dataset.json", {"tokenizer": "tokenizer", "eod_id": 3, "train": [entry]})
    rows = TokenRows(tmp_path, 5, 10)
    (shard,) = rows.shards()
    first, second = rows.rows_of(shard, eod_mask=True)
    assert letters(first.ids.tolist()) == "abcEab" and first.lengths.tolist() == [4, 2]
    # As tuning marked them, whatever follows an end of document; the first token of a row is never predicted.
    assert first.mask.tolist() == [False, True, True, False, False, True]
    assert second.mask.tolist() == [False, True]
    with pytest.raises(InputError, match=r"a row with 5 predicted tokens, more than seq_length=4"):
        TokenRows(tmp_path, 4, 10)
