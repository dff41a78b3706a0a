"""A scorer from proxy scores to selected documents, and everything for which one is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_ipt.errors import InputError, RecipeError, StageError, UserError
from megatron_ipt.files import read_json, read_jsonl, write_json
from megatron_ipt.recipe import Recipe
from megatron_ipt.selection.description import FITTING, SCORING
from megatron_ipt.selection.findings.report import scoring_part
from megatron_ipt.selection.fitting.learned import load, read_about, texts_of
from megatron_ipt.selection.fitting.report import part
from megatron_ipt.selection.identity import model_fingerprint
from megatron_ipt.selection.order import gumbel_keys, largest, uniform
from megatron_ipt.selection.rows import hash_of
from megatron_ipt.stages import Stage
from megatron_ipt.stages.page import Chart, SideBySide, StageRecord, Table
from tests.selection.conftest import LETTERS, run
from tests.selection.tiny_llamas import Pds

Fitted = Callable[..., Recipe]


@pytest.fixture
def fitted(pds: Pds, llama: Callable[[int], Path]) -> Fitted:
    """A recipe that fits a scorer, scores with it and selects."""

    def make(
        name: str = "run", fitting: dict[str, Any] | None = None, scorer: dict[str, Any] | None = None,
        selection: dict[str, Any] | None = None, **keys: Any,
    ) -> Recipe:  # fmt: skip
        section = {
            "trunk": str(llama(5)), "seq_length": 16, "epochs": 8, "learning_rate": 3e-3, "batch_documents": 8,
            "held_out": 0.3, "device": "cpu",
        }  # fmt: skip
        generation = {"context_length": 128}
        sections = {
            "fitting": section | (fitting or {}),
            "scoring": {"scorers": {"pds": {"engine": "learned", "generation": generation, **(scorer or {})}}},
            "selection": {"rule": "gumbel", "share": 0.5} | (selection or {}),
        }
        return pds(name, sections=sections, **keys)

    return make


def record(folder: Path, stage: Stage) -> StageRecord:
    return StageRecord(stage, folder / stage.name, read_json(folder / stage.name / "manifest.json"))


def test_documents_that_help_the_target_are_kept(fitted: Fitted) -> None:
    folder = run(fitted(), until="selection")
    counts = read_json(folder / "fitting" / "manifest.json")["counts"]
    assert counts["spearman"] > 0.5
    assert counts["documents"] + counts["held_out_documents"] == 40
    summary = read_json(folder / "scoring" / "manifest.json")["counts"]["scorers"]["pds"]
    assert (summary["measure"], summary["seq_length"], summary["scored"]) == ("score", 15, 40)

    rows = np.load(folder / "scoring" / "pds" / "synthesis-00000.npy")
    predictions = -rows["nll"] / rows["tokens"]
    texts = {record["id"]: record["text"] for record in read_jsonl(folder / "corpus/synthesis/shard-00000.jsonl")}
    # By the model itself, one text at a time: E ends documents, and the first token is never counted.
    model = load(folder / "fitting" / "scorer", "key")
    for place, (name, text) in enumerate(list(texts.items())[:10]):
        ids = [LETTERS.index(letter) for letter in f"{text}E"]
        assert rows["id"][place] == hash_of(name)
        assert rows["tokens"][place] == len(ids) - 1
        assert predictions[place] == pytest.approx(model(texts_of([ids])).item(), abs=1e-5)

    kept = [record["id"] for record in read_jsonl(folder / "selection/synthesis/shard-00000.jsonl")]
    keys = gumbel_keys(predictions, 0.1, uniform(1234, "selection", rows["id"]))
    assert kept == [name for name, flag in zip(texts, largest(keys, 20)) if flag]
    assert sum(name.startswith("good") for name in kept) >= 16

    found = part(record(folder, FITTING))
    assert found.title == "Scorer" and found.step is not None and found.step.unit == "rank correlation"
    (charts,) = [element.elements for element in found.elements if isinstance(element, SideBySide)]
    ranks = charts[1]
    assert isinstance(ranks, Chart)
    assert ranks.curves[0].x == sorted(range(1, counts["held_out_documents"] + 1))
    shown = scoring_part(record(folder, SCORING)).elements[0]
    assert isinstance(shown, Table) and shown.rows[0].cells[:2] == ("pds", "learned")
    assert shown.rows[0].cells[4].startswith("score ")


def test_a_scorer_of_another_run_and_long_documents(fitted: Fitted) -> None:
    """The scorer is fitted twice, to the same bytes; the second run scores in windows, with that of the first."""
    folder = run(fitted("one"), until="fitting") / "fitting" / "scorer"
    twin = run(fitted("two"), until="fitting") / "fitting" / "scorer"
    one, two = (read_json(each / "scorer.json") for each in (folder, twin))
    assert one["files"] == two["files"] and one["by_epoch"] == two["by_epoch"]

    keys = {"generation": {"model": str(folder), "context_length": 128}, "seq_length": 6}
    recipe = fitted("other", scorer=keys)
    recipe.skip += ["proxy", "fitting"]
    other = run(recipe, until="scoring")
    rows = np.load(other / "scoring" / "pds" / "synthesis-00000.npy")
    text = next(read_jsonl(other / "corpus/synthesis/shard-00000.jsonl"))["text"]
    ids = [LETTERS.index(letter) for letter in f"{text}E"]
    windows = [ids[first : first + 7] for first in range(0, len(ids) - 1, 6)]
    model = load(folder, "key")
    total = sum(model(texts_of([window])).item() * (len(window) - 1) for window in windows)
    assert rows["tokens"][0] == len(ids) - 1 == sum(len(window) - 1 for window in windows)
    assert -rows["nll"][0] == pytest.approx(total, abs=1e-4)
    summary = read_json(other / "scoring" / "manifest.json")["counts"]["scorers"]["pds"]
    assert summary["model_fingerprint"] == model_fingerprint(str(folder))


def test_a_head_on_states_that_stay_as_they_are(fitted: Fitted, llama: Callable[[int], Path]) -> None:
    from transformers import AutoModel

    folder = run(fitted(fitting={"train_trunk": False, "learning_rate": 0.03, "epochs": 30}), until="fitting")
    model = load(folder / "fitting" / "scorer", "key")
    trunk = AutoModel.from_pretrained(llama(5))
    for name, parameter in trunk.named_parameters():
        assert (dict(model.trunk.named_parameters())[name] == parameter).all()  # type: ignore[union-attr, arg-type]
    assert read_about(folder / "fitting" / "scorer", "key")["spearman"] > 0


def test_a_scorer_that_is_no_better_than_chance_is_refused(fitted: Fitted) -> None:
    """At this learning rate all of its predictions stay 0."""
    recipe = fitted(fitting={"learning_rate": 1e-60, "train_trunk": False})
    with pytest.raises(StageError, match=r"orders the .* held-out rows no better than chance"):
        run(recipe, until="fitting")
    folder = Path(recipe.output_dir) / "fitting"
    assert not (folder / "scorer").exists()


def test_files_of_a_scorer_are_checked(fitted: Fitted) -> None:
    scorer = run(fitted(steps=2, fitting={"epochs": 4}), until="fitting") / "fitting" / "scorer"
    about = read_json(scorer / "scorer.json")
    write_json(scorer / "scorer.json", about | {"spearman": -0.1})
    with pytest.raises(StageError, match=r"key: .*held-out documents is -0\.100: it would select at random"):
        read_about(scorer, "key")
    write_json(scorer / "scorer.json", about | {"format": 2})
    with pytest.raises(InputError, match="format 2, and this version reads 1"):
        read_about(scorer, "key")
    write_json(scorer / "scorer.json", about)
    np.save(scorer / "head.npy", np.zeros(17))
    with pytest.raises(InputError, match=r"head\.npy: is missing or was changed"):
        read_about(scorer, "key")
    with pytest.raises(InputError, match=r"key: .*nowhere: no learned scorer"):
        read_about(scorer.parent / "nowhere", "key")


def test_a_scorer_is_used_as_it_was_fitted(fitted: Fitted) -> None:
    # Of one run: what is finished is skipped.
    for keys, message in (
        ({"scorer": {"prepend_bos": False}}, r"pds\.prepend_bos: is false, and the scorer .* with true"),
        ({"scorer": {"seq_length": 17}}, r"pds\.seq_length: 17 inputs .* set it to 15 or less"),
        ({"selection": {"rule": "top_k", "per": "byte"}}, r"selection\.per: pds is a learned scorer"),
    ):
        recipe = fitted(steps=2, **keys)
        shutil.rmtree(Path(recipe.output_dir) / "scoring", ignore_errors=True)
        with pytest.raises(RecipeError, match=message):
            run(recipe, until="selection")


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        ({"held_out": 1.0}, RecipeError, r"fitting\.held_out: 1 is not between 0 and 1"),
        ({"learning_rate": 0.0}, RecipeError, r"fitting\.learning_rate: 0 is not above 0"),
        ({"trunk": "nowhere"}, InputError, r"fitting\.trunk: nowhere is no Hugging Face folder"),
        ({"seq_length": 99}, InputError, r"fitting\.seq_length: 99 is more than the 64 positions"),
    ],
)
def test_bad_settings(fitted: Fitted, keys: dict[str, Any], error: type[UserError], message: str) -> None:
    with pytest.raises(error, match=message):
        run(fitted(steps=1, documents=8, fitting=keys), until="fitting")


def test_no_scorer_at_all(fitted: Fitted) -> None:
    recipe = fitted(steps=1, documents=8)
    recipe.skip += ["proxy", "fitting"]
    with pytest.raises(RecipeError, match=r"pds\.generation\.model: the recipe fits no scorer .*\(section fitting\)"):
        run(recipe, until="scoring")
