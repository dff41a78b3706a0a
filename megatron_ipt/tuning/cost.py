"""Cost model of the stage: one process reads, encodes and packs. Its rate is an assumption."""

from __future__ import annotations

from megatron_ipt.stages import CHAINS, TOKENS
from megatron_ipt.stages.costs import CHARACTERS_PER_TOKEN, Estimate, Planning, StageCost, TokenData, bytes_of_text
from megatron_ipt.stages.readable import compact
from megatron_ipt.tokens.cost import token_bytes, vocabulary_of
from megatron_ipt.tuning.collect import files_of
from megatron_ipt.tuning.config import TuningConfig

MB_PER_SECOND = 1.0


def cost(config: TuningConfig, planning: Planning) -> Estimate:
    """Time, storage and size of the rows.

    Raises:
        RecipeError: the vocabulary is unknown.
        UnknownSize: none of the input files is here.
    """
    tokens, source, notes = _size(config, planning)
    vocab_size = vocabulary_of(config.tokenizer, "tuning.tokenizer.path", planning)
    # An id and a byte of the loss mask for every token.
    gigabytes = tokens * (token_bytes(vocab_size) + 1) / 1e9
    return Estimate(
        costs=(StageCost.on_cores("tuning", tokens, 1, MB_PER_SECOND),),
        makes={TOKENS: TokenData(tokens, vocab_size)},
        storage_gb={"tuning": gigabytes},
        data=f"{compact(tokens)} tokens ({source})",
        facts={"data": {"data_tokens": tokens, "source": source}},
        notes=notes,
    )


def _size(config: TuningConfig, planning: Planning) -> tuple[float, str, tuple[str, ...]]:
    if planning.counts:
        return float(planning.counts["train"]["tokens"]), "tokens as counted by the tuning stage", ()
    own = 0.0
    if config.pairs:
        size = planning.inputs[CHAINS]
        # Each pair with its text.
        own = size.pair_tokens + (size.pairs * size.tokens_per_text if size.tokens_per_text else 0.0)
    sizes: dict[str, float | None] = {
        name: bytes_of_text(lambda name=name: [file.path for file in files_of(config, name)])  # type: ignore[misc]
        for name in config.datasets
    }
    if not own and all(size is None for size in sizes.values()):
        beginning = planning.begin("tuning.datasets are not here")
        return beginning.documents * planning.assumptions.tokens_per_document, beginning.source, ()
    tokens = own + sum(
        size / CHARACTERS_PER_TOKEN * config.datasets[name].repeat for name, size in sizes.items() if size is not None
    )
    missing = [name for name, size in sizes.items() if size is None]
    notes = (f"Files of tuning.datasets that are not here are left out: {', '.join(missing)}.",) if missing else ()
    return tokens, "pairs of this recipe" if own else "size of tuning.datasets", notes
