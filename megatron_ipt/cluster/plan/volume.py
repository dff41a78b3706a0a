"""How much there is: documents, texts to synthesize, pairs, tokens. Counted where a stage has counted, else estimated.

The estimate starts from the paper's figures (arXiv:2406.14491): documents of 500 tokens (200M texts, 100B tokens), five
pairs a text, 52 tokens a pair. Every one of them can be given instead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megatron_ipt.errors import UserError
from megatron_ipt.manifest import read_manifest
from megatron_ipt.recipe import Recipe

TOKENS_PER_DOCUMENT = 500.0
PAIRS_PER_TEXT = 5.0
TOKENS_PER_PAIR = 52.0
CHARACTERS_PER_TOKEN = 4.4
"""English web text under a vocabulary of 32,000 (stated)."""
BYTES_PER_COMPRESSED = {"none": 1.0, "gz": 0.40, "zst": 0.38}
"""Size of JSON Lines of English text against plain (stated)."""


@dataclass(frozen=True)
class Assumptions:
    """What the estimate rests on; each may be given on the command line."""

    documents: float | None = None
    tokens_per_document: float = TOKENS_PER_DOCUMENT
    pairs_per_text: float = PAIRS_PER_TEXT
    tokens_per_pair: float = TOKENS_PER_PAIR


@dataclass(frozen=True)
class Volume:
    """Sizes of the data between stages.

    Attributes:
        documents, tokens: of the raw corpus.
        texts: that get pairs: passages of the documents in lane ``synthesis``.
        tokens_per_text: of one such text.
        pairs, pair_tokens: made from them.
        data_tokens: of the finished dataset, one pass.
        source: where the figures come from.
    """

    documents: float
    tokens: float
    texts: float
    tokens_per_text: float
    pairs: float
    pair_tokens: float
    data_tokens: float
    source: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def volume_of(recipe: Recipe, trained_tokens: float | None, assumptions: Assumptions) -> Volume:
    """The volume of ``recipe``.

    Args:
        trained_tokens: of the whole training, one pass over data that is not there yet; None where the recipe counts
            in epochs.
    """
    counted = _counts(recipe, "corpus")
    per_document = assumptions.tokens_per_document
    if assumptions.documents is not None:
        documents, source = float(assumptions.documents), "documents as given"
    elif counted:
        documents = float(counted["documents"])
        per_document = counted["characters"] / CHARACTERS_PER_TOKEN / max(documents, 1)
        source = "documents and characters as the corpus stage counted them"
    elif (size := _input_bytes(recipe)) is not None:
        documents = size / CHARACTERS_PER_TOKEN / per_document
        source = "size of corpus.inputs"
    elif trained_tokens:
        documents = 1.0
        source = "as much as one pass of the training needs"
    else:
        raise UserError(
            "plan: how much text there is cannot be told: corpus.inputs is not here and the training is given in "
            "epochs. Pass --documents, or set training.tokens or training.steps."
        )
    volume = _from(documents, per_document, recipe, assumptions, source)
    if documents == 1.0 and trained_tokens:
        volume = _from(trained_tokens / volume.data_tokens, per_document, recipe, assumptions, source)
    return volume


def _from(documents: float, per_document: float, recipe: Recipe, assumptions: Assumptions, source: str) -> Volume:
    lane = documents * recipe.corpus.synthesis_share
    passages = max(1, math.ceil(per_document * CHARACTERS_PER_TOKEN / recipe.synthesis.passage_characters))
    texts = lane * passages
    counted: Mapping[str, Any] = _counts(recipe, "synthesis") or {}
    pairs = float(counted.get("pairs", texts * assumptions.pairs_per_text))
    pair_tokens = pairs * assumptions.tokens_per_pair
    raw = documents * per_document
    return Volume(
        documents=documents,
        tokens=raw,
        texts=texts,
        tokens_per_text=per_document / passages,
        pairs=pairs,
        pair_tokens=pair_tokens,
        data_tokens=raw + pair_tokens,
        source=source,
    )


def _counts(recipe: Recipe, stage: str) -> dict[str, Any] | None:
    manifest = read_manifest(Path(recipe.output_dir) / stage)
    return manifest["counts"] if manifest is not None and manifest["status"] == "complete" else None


def _input_bytes(recipe: Recipe) -> float | None:
    """Bytes of text in ``corpus.inputs``; None where they are remote or not here."""
    from megatron_ipt.corpus.reading import input_files

    try:
        paths = [str(file.path) for file in input_files(recipe.corpus.inputs, recipe.corpus.options())]
        if any("://" in path for path in paths):
            return None
        return sum(
            Path(path).stat().st_size / (BYTES_PER_COMPRESSED["zst"] if path.endswith((".zst", ".gz")) else 1.0)
            for path in paths
        )
    except (UserError, OSError):
        return None
