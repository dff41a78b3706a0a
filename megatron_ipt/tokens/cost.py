"""Cost model of the stage: shards are encoded on all cores, then one process joins their parts.

Parts exist only while the stage runs. The rates are assumptions.
"""

from __future__ import annotations

from pathlib import Path

from megatron_ipt.corpus.reading import input_files
from megatron_ipt.errors import RecipeError
from megatron_ipt.stages import AUGMENTED, DOCUMENTS, TOKENS
from megatron_ipt.stages.costs import (
    CHARACTERS_PER_TOKEN,
    Documents,
    Estimate,
    PairedTexts,
    Planning,
    StageCost,
    TokenData,
    bytes_of_text,
)
from megatron_ipt.tokenizer_readers import read_sentencepiece, read_tokenizer_json
from megatron_ipt.tokens.config import SourceConfig, TokenizerConfig, TokensConfig

ENCODING_MB_PER_SECOND = 3.0
"""Of one core."""
JOINING_MB_PER_SECOND = 200.0
"""Of text, by the one process that joins the parts."""
INDEX_BYTES = 20
"""Of one document in ``.idx``: its length, its offset, its place in the list of documents."""


def cost(config: TokensConfig, planning: Planning) -> Estimate:
    """Time, storage and size of the datasets.

    Raises:
        RecipeError: the vocabulary is unknown.
        UnknownSize: all data is in files that are not here.
    """
    tokens, documents, source, notes = _size(config, planning)
    vocab_size = vocabulary_of(config.tokenizer, "tokens.tokenizer.path", planning)
    dataset = (tokens * token_bytes(vocab_size, config.dtype) + documents * INDEX_BYTES) / 1e9
    return Estimate(
        costs=(
            StageCost.on_cores("tokens", tokens, planning.machine.cores, ENCODING_MB_PER_SECOND),
            StageCost.on_cores("merge", tokens, 1, JOINING_MB_PER_SECOND),
        ),
        makes={TOKENS: TokenData(tokens, vocab_size)},
        storage_gb={"tokens": dataset, "tokens_parts": dataset},
        data=source,
        facts={"data": {"data_tokens": tokens}},
        notes=notes,
    )


def _size(config: TokensConfig, planning: Planning) -> tuple[float, float, str, tuple[str, ...]]:
    """(tokens, documents, where they come from, notes)."""
    raw: Documents = planning.inputs.get(DOCUMENTS, Documents(0.0, 0.0, 0.0))
    augmented: PairedTexts = planning.inputs.get(AUGMENTED, PairedTexts(0.0, 0.0, 0.0, 0.0))
    # Documents that get pairs are read as augmented ones.
    replaced = raw.paired_tokens if AUGMENTED in planning.inputs else 0.0
    tokens = raw.tokens + augmented.pair_tokens + (augmented.text_tokens - replaced)
    documents = raw.documents or augmented.texts
    notes, sources = [], []
    for name, source in config.sources.items():
        if not source.inputs:
            continue
        size = bytes_of_text(lambda name=name, source=source: _paths(name, source))  # type: ignore[misc]
        if size is not None:
            sources.append(f"size of tokens.sources.{name}.inputs")
            tokens += size / CHARACTERS_PER_TOKEN
            documents += size / CHARACTERS_PER_TOKEN / planning.assumptions.tokens_per_document
        elif planning.inputs or tokens:
            notes.append(f"tokens.sources.{name}.inputs is not here and is left out.")
        else:
            beginning = planning.begin(f"tokens.sources.{name}.inputs is not here")
            sources.append(beginning.source)
            tokens += beginning.documents * planning.assumptions.tokens_per_document
            documents += beginning.documents
    return tokens, documents, " and ".join(sources), tuple(notes)


def _paths(name: str, source: SourceConfig) -> list[str]:
    return [file.path for file in input_files(source.inputs, source.options(f"tokens.sources.{name}"))]


def token_bytes(vocab_size: int, dtype: str = "auto") -> int:
    """Bytes of a token id in ``.bin``."""
    return 4 if dtype == "int32" or vocab_size > 1 << 16 else 2


def vocabulary_of(settings: TokenizerConfig, key: str, planning: Planning) -> int:
    """Vocabulary size of a tokenizer, as far as it is known before a stage runs.

    Args:
        key: of the tokenizer's path, for the message.

    Raises:
        RecipeError: the tokenizer is not here.
    """
    known = planning.assumptions.vocab_size or planning.counts.get("vocab_size")
    if known:
        return int(known)
    if settings.kind == "train":
        return settings.vocab_size
    path = Path(settings.path)
    if (path / "tokenizer.json").is_file():
        return int(read_tokenizer_json(path / "tokenizer.json").get_vocab_size(with_added_tokens=True))
    if path.is_file():
        return int(read_sentencepiece(path.read_bytes(), path).vocab_size())
    demand = planning.demands.get(TOKENS)
    if demand is not None and demand.vocab_size:
        return demand.vocab_size
    raise RecipeError(f"{key}: {path} is not here; pass --vocab-size to plan without it")
