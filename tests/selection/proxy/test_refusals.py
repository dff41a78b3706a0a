"""What a proxy run refuses, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_ipt.errors import InputError, RecipeError, StageError, UserError
from megatron_ipt.files import read_json, write_json
from tests.selection.conftest import run
from tests.selection.tiny_llamas import Pds, counting


def test_a_target_in_the_training_data(pds: Pds) -> None:
    with pytest.raises(InputError, match=r"1 target texts are also documents .*t1 is good4 \(split train\) in .*shard"):
        # Whatever its white space.
        run(pds(target=[counting(7, 9), f" {counting(4, 12)}\n"]), until="proxy")


def test_a_target_in_the_held_out_data(pds: Pds) -> None:
    texts = {f"d{n}": counting(n, 12 + n // 10) for n in range(30)}
    recipe = pds(texts=texts, target=list(texts.values()), documents=5, corpus={"valid_share": 0.3})
    with pytest.raises(InputError, match=r"30 target texts are also .*\(split valid\)"):
        run(recipe, until="proxy")


def test_a_target_that_models_are_evaluated_on(pds: Pds, tmp_path: Path) -> None:
    write_json(tmp_path / "exam.json", [{"id": "q0", "text": "x"}, {"id": "q1", "text": counting(1, 16)}])
    recipe = pds(evaluated_on=[str(tmp_path / "exam.json")])
    with pytest.raises(InputError, match=r"1 target texts are also texts of proxy\.evaluated_on \(t1 is q1\)"):
        run(recipe, until="proxy")


def test_documents_that_the_starting_points_know(pds: Pds) -> None:
    first = run(pds("first", corpus={"slice": [0.0, 0.4]}, documents=2), until="corpus") / "corpus"
    keys = {"documents": 20, "trained_on": str(first), "steps": 1}
    with pytest.raises(InputError, match=r"proxy\.trained_on: \d+ documents .*, such as (good|noise)\d+, were"):
        run(pds("all", **keys), until="proxy")
    run(pds("rest", corpus={"slice": [0.4, 1.0]}, **keys), until="proxy")


def test_a_target_that_begins_as_a_document_does(pds: Pds) -> None:
    """They differ beyond what the model reads of them."""
    texts = {"a": counting(0, 20), "b": counting(1, 20)}
    with pytest.raises(InputError, match=r"1 training rows are also target rows \(target row 0 is training row 1\)"):
        run(pds(texts=texts, target=[counting(1, 18)]), until="proxy")


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        ({"target": []}, InputError, r"proxy\.target: no text in"),
        ({"documents": 41}, InputError, r"proxy\.documents: 41 are to be drawn, and .* has 40 training documents"),
        ({"learning_rate": 0.0}, RecipeError, r"proxy\.learning_rate: 0 is not above 0"),
        ({"relative_step": -1.0}, RecipeError, r"proxy\.relative_step: -1 is not above 0"),
        ({"starts": (0, 0)}, RecipeError, r"proxy\.starts: names the same folder twice"),
        ({"batch_documents": 99}, RecipeError, r"proxy\.batch_documents: 99 is more than documents=40"),
        ({"outer_steps": 2, "batch_documents": 4}, RecipeError, r"outer_steps: 2 needs batch_documents=null"),
        ({"seq_length": 65}, InputError, r"proxy\.seq_length: 65 is more than the 64 positions of"),
        ({"learning_rate": 1e30}, StageError, r"step \d: the loss of row \d+ is|J after step \d is"),
        (
            {"derivatives": "central_differences", "relative_step": 1e-7},
            StageError,
            r"proxy\.relative_step: with a third of 1e-07, .* differ by \d.*with 0\.000[13] they differ by 0\.",
        ),
        (
            {"derivatives": "central_differences", "relative_step": 0.7},
            StageError,
            r"proxy\.relative_step: with a third of 0\.7",
        ),
        pytest.param({"device": "cuda"}, StageError, r"proxy\.ranks: 1 ranks need as many GPUs, and this machine has 0",
            marks=pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="has a GPU")),
    ],
)  # fmt: skip
def test_bad_settings(pds: Pds, keys: dict[str, Any], error: type[UserError], message: str) -> None:
    with pytest.raises(error, match=message):
        run(pds(**({"steps": 2} | keys)), until="proxy")


def test_a_start_that_is_no_model(pds: Pds, tmp_path: Path) -> None:
    recipe = pds()
    recipe.proxy.starts.append(str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"proxy\.starts\[1\]: .*nowhere is no Hugging Face folder"):
        run(recipe, until="proxy")


def test_another_tokenizer(pds: Pds, tmp_path: Path, letter_tokenizer: Path) -> None:
    folder = tmp_path / "larger"
    folder.mkdir()
    vocabulary = read_json(letter_tokenizer / "tokenizer.json")
    vocabulary["model"]["vocab"]["b"] = 40
    write_json(folder / "tokenizer.json", vocabulary)
    write_json(folder / "tokenizer_config.json", {"eos_token": "E"})
    with pytest.raises(
        InputError, match=r"proxy\.tokenizer: document good\d+ has the id 40, and .* a vocabulary of 11"
    ):
        run(pds(tokenizer=str(folder)), until="proxy")


def test_a_start_that_changed_is_another_run(pds: Pds, llama: Callable[[int], Path], tmp_path: Path) -> None:
    recipe = pds(steps=1)
    run(recipe, until="proxy")
    recipe.proxy.starts[0] = str(llama(1))
    with pytest.raises(StageError, match=r"proxy\.starts: was"):
        run(recipe, until="proxy")


def test_a_damaged_solution_is_named(pds: Pds) -> None:
    recipe = pds(steps=1)
    folder = run(recipe, until="proxy") / "proxy"
    (folder / "manifest.json").unlink()
    (folder / "solutions" / "00-00.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(StageError, match=r"00-00\.npy: cannot be read"):
        run(recipe, until="proxy")
