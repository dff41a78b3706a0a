"""The whole path on tables as models: values worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_ipt.files import list_shards, read_json, read_jsonl
from tests.selection.conftest import FIVE, Build, run, unigrams

MASKS = {"eod inputs": [2 / 3, -1 / 2, 1, 2 / 5, 0], "none": [2 / 3, 0, 1, 2 / 5, 1 / 2]}


def kept(folder: Path) -> list[str]:
    return [record["id"] for lane in ("synthesis", "raw") for shard in list_shards(folder / "selection" / lane)
            for record in read_jsonl(shard)]  # fmt: skip


def differences(folder: Path) -> list[float]:
    sets = [np.load(folder / "scoring" / name / "synthesis-00000.npy") for name in ("teacher", "reference")]
    assert (sets[0]["tokens"] == sets[1]["tokens"]).all()
    return ((sets[1]["nll"] - sets[0]["nll"]) / sets[0]["tokens"] / math.log(2)).tolist()


@pytest.mark.parametrize(
    ("mask", "share", "expected"),
    [
        ("eod inputs", 0.4, ["d1", "d3"]),
        ("eod inputs", 0.6, ["d1", "d3", "d4"]),
        ("none", 0.4, ["d1", "d3"]),
        ("none", 0.6, ["d1", "d3", "d5"]),
    ],
)
def test_unigrams(build: Build, mask: str, share: float, expected: list[str]) -> None:
    scorers = unigrams(eod_mask=mask == "eod inputs")
    folder = run(build(FIVE, scorers, {"rule": "difference", "share": share}))
    assert differences(folder) == pytest.approx(MASKS[mask], abs=1e-12)
    assert kept(folder) == expected


def test_sums_prefer_long_documents(build: Build) -> None:
    assert kept(run(build(FIVE, unigrams(), {"rule": "difference", "share": 0.4, "per": "document"}))) == ["d1", "d4"]


def test_documents_are_kept_in_the_order_of_what_can_be_learned(build: Build) -> None:
    """Structure that the reference lacks, then what both know, then noise that the teacher expects less."""
    bits = "01"
    for place in range(2, 102):
        expected = int(bits[-1]) ^ int(bits[-2])
        bits += str(expected ^ (place % 10 == 7))
    documents = {"noise": "wxyz" * 20, "same": "q" * 80, "bits": bits}
    engine = "tests.selection.conftest:Bits"
    scorers = {name: {"engine": engine, "options": {"teacher": name == "teacher"}} for name in ("teacher", "reference")}
    recipe = build(documents, scorers, {"rule": "difference", "share": 1.0})
    folder = run(recipe)
    noise, same, learnable = differences(folder)
    # 100 of its 101 predicted bits are structured, a tenth of them flipped.
    mean = (0.9 * math.log(1.8) + 0.1 * math.log(0.2)) / math.log(2)
    assert learnable * 101 / 100 == pytest.approx(mean, abs=1e-12)
    assert mean * math.log(2) == pytest.approx(0.3681, abs=5e-5)
    assert same == 0
    assert noise * math.log(2) == pytest.approx(-0.9163, abs=5e-5)
    samples = read_json(folder / "selection" / "selection.json")["samples"]["top"]
    assert [sample["id"] for sample in samples] == ["bits", "same", "noise"]


@pytest.mark.parametrize("seq_length", [1, 2, 3, 127])
def test_windows_predict_every_token_once(build: Build, seq_length: int) -> None:
    """Losses 1, 2, 3 and 4: their mean is 2.5; windows of one and three tokens have a mean of means of 2."""
    table = {"a": 1.0, "b": math.exp(-1), "c": math.exp(-2), "0": math.exp(-3), "1": math.exp(-4)}
    scorers = {"teacher": {"options": {"table": table}, "seq_length": seq_length}}
    folder = run(build(["abc01"], scorers, {}), until="scoring")
    rows = np.load(folder / "scoring" / "teacher" / "synthesis-00000.npy")
    assert rows["nll"][0] / rows["tokens"][0] == pytest.approx(2.5)
    assert rows["tokens"][0] == 4


def test_a_constant_for_all_changes_nothing(build: Build, tmp_path: Path) -> None:
    scores = "".join(f'{{"id": "d{n}", "score": {value}}}\n' for n, value in enumerate([0.5, 0.1, 0.5, 0.3, 0.2], 1))
    for constant in (0, 1000):
        shifted = "".join(
            f'{{"id": "d{n}", "score": {value + constant}}}\n' for n, value in enumerate([0.5, 0.1, 0.5, 0.3, 0.2], 1)
        )
        path = tmp_path / "scores.jsonl"
        path.write_text(shifted if constant else scores)
        assert kept(run(build(FIVE, {}, {"rule": "scores", "scores": str(path), "share": 0.4}), overwrite=True)) == [
            "d1",
            "d3",
        ]


def test_held_out_documents_pass_and_are_not_scored(build: Build) -> None:
    documents: dict[str, Any] = {f"d{n}": {"text": "abc" * (n % 4 + 1)} for n in range(40)}
    recipe = build(
        documents, unigrams(), {"rule": "difference", "share": 0.5}, corpus={"valid_share": 0.3, "synthesis_share": 0.5}
    )
    folder = run(recipe)
    corpus = {
        lane: [record for shard in list_shards(folder / "corpus" / lane) for record in read_jsonl(shard)]
        for lane in ("synthesis", "raw")
    }
    train = [record for records in corpus.values() for record in records if record["split"] == "train"]
    held_out = {record["id"] for records in corpus.values() for record in records} - {record["id"] for record in train}
    assert held_out
    counts = read_json(folder / "selection" / "manifest.json")["counts"]
    assert counts["rows"] == len(train)
    assert counts["kept"] == len(train) // 2
    assert held_out <= set(kept(folder))
    for lane, records in corpus.items():
        after = [record for shard in list_shards(folder / "selection" / lane) for record in read_jsonl(shard)]
        assert [record for record in records if record in after] == after
        assert counts[f"{lane}_documents"] == len(after)
    left_out = [r for shard in list_shards_of(folder / "selection" / "left_out") for r in read_jsonl(shard)]
    assert {record["id"] for record in left_out} == {record["id"] for record in train} - set(kept(folder))
    assert all(record["reason"] == "below the cut" for record in left_out)
    assert counts["splits"] == {"train": len(train) // 2, "valid": len(held_out)}


def list_shards_of(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())
