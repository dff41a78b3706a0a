"""A corpus of letters, a tokenizer with an id for each, and tables as models: scores that can be worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from megatron_ipt.files import write_json
from megatron_ipt.inference.engine import Engine
from megatron_ipt.inference.scoring import Score, ScoreRequest
from megatron_ipt.pipeline import run_recipe
from megatron_ipt.recipe import Recipe, recipe_from

LETTERS = "abcE01qwxyz"
"""Vocabulary; E ends documents."""


def letters(ids: Sequence[int]) -> str:
    return "".join(LETTERS[each] for each in ids)


class Unigrams(Engine):
    """Probabilities of single tokens, in ``options.table`` by letter."""

    async def score(self, request: ScoreRequest) -> Score:
        self.check_length(request)
        table = self.settings.options["table"]
        return request.score([math.log(table[LETTERS[request.ids[place]]]) for place in request.counted])


class Bits(Engine):
    """Exact and uniform models of three kinds of documents: bits of x[t-1] xor x[t-2], one letter, and noise."""

    async def score(self, request: ScoreRequest) -> Score:
        teacher, text = self.settings.options["teacher"], letters(request.ids)
        return request.score([self._likelihood(teacher, text, place) for place in request.counted])

    def _likelihood(self, teacher: bool, text: str, place: int) -> float:
        if text[place] == "q":
            return 0.0
        if text[place] in "wxyz":
            return math.log(0.1 if teacher else 0.25)
        if not teacher or place < 2:
            return math.log(0.5)
        expected = str(int(text[place - 1]) ^ int(text[place - 2]))
        return math.log(0.9 if text[place] == expected else 0.1)


class Broken(Unigrams):
    """NaN for texts with a z, refused those with a y."""

    async def score(self, request: ScoreRequest) -> Score:
        from megatron_ipt.inference.engine import RequestRefused

        text = letters(request.ids)
        if "y" in text:
            raise RequestRefused("no y")
        return Score(math.nan, 1) if "z" in text else request.score([-1.0 for _ in request.counted])


TEACHER = {"a": 0.4, "b": 0.2, "c": 0.2, "E": 0.2}
REFERENCE = {"a": 0.2, "b": 0.2, "c": 0.4, "E": 0.2}
FIVE = ["baab", "bcEa", "aa", "caabac", "aEa"]


@pytest.fixture(scope="session")
def letter_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose tokenizer has one id for each of :data:`LETTERS`."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("letters")
    tokenizer = Tokenizer(models.WordLevel({letter: place for place, letter in enumerate(LETTERS)}, unk_token="w"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {"eos_token": "E"})
    return folder


Build = Callable[..., Recipe]


@pytest.fixture
def build(tmp_path: Path, letter_tokenizer: Path) -> Build:
    """A recipe over documents ``{id: text}``, or records, with scorers of the classes above."""

    def make(documents: Any, scorers: dict[str, Any], selection: dict[str, Any], **sections: Any) -> Recipe:
        if isinstance(documents, list):
            documents = {f"d{number}": text for number, text in enumerate(documents, 1)}
        records = [
            {"id": name, **(value if isinstance(value, dict) else {"text": value})} for name, value in documents.items()
        ]
        inputs = tmp_path / "documents.json"
        write_json(inputs, records)
        corpus = {
            "inputs": [str(inputs)], "minimum_characters": 1, "valid_share": 0.0, "domain_key": "domain",
        } | sections.pop("corpus", {})  # fmt: skip
        return recipe_from(
            {
                "name": "letters",
                "output_dir": str(tmp_path / "run"),
                "compression": "none",
                "corpus": corpus,
                "scoring": {"scorers": {name: scorer_of(letter_tokenizer, each) for name, each in scorers.items()}},
                "selection": selection,
                "skip": ["synthesis", "augment", "tokens", "training", "export", "evaluation", "report"],
                **sections,
            }
        )

    return make


def scorer_of(tokenizer: Path, keys: dict[str, Any]) -> dict[str, Any]:
    generation = {"tokenizer": str(tokenizer), "context_length": 128} | keys.pop("generation", {})
    return {"engine": f"{__name__}:Unigrams", "append_eod": False, "generation": generation} | keys


def unigrams(**keys: Any) -> dict[str, Any]:
    """The two scorers of the first fixture, with further keys for both."""
    return {
        "teacher": {"options": {"table": TEACHER}, **keys},
        "reference": {"options": {"table": REFERENCE}, **keys},
    }


def run(recipe: Recipe, until: str | None = None, overwrite: bool = False) -> Path:
    run_recipe(recipe, overwrite, until)
    return Path(recipe.output_dir)
