"""Stage ``composition``: training contexts of paragraphs that share a task (PICL, arXiv:2305.09137).

Vectors of paragraphs, their neighbours, the losses of paragraphs alone, and those in contexts: four steps, each divided
by shards of the corpus and each in need of all of the one before. A last run without ``--shard`` decides what is kept,
writes rows and describes the blend.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np

from megatron_ipt.composition.config import CompositionConfig
from megatron_ipt.composition.encoder.model import recipe_of
from megatron_ipt.composition.measures import (
    cards,
    counts_of_vectors,
    fill_measures,
    gain_measures,
    rank_measures,
    read_scores,
    threshold,
    use_measures,
    warnings_of,
)
from megatron_ipt.composition.neighbours import make_contexts, read_contexts, search_shards
from megatron_ipt.composition.rows import lengths_of, no_contexts, uses_of, write_dataset, write_rows
from megatron_ipt.composition.scores import ScoreStep, check_filter, settings_of
from megatron_ipt.composition.store import CONTEXTS, NEIGHBOURS, SCORES, STEPS, VECTORS, Paragraphs, unit
from megatron_ipt.composition.vectors import VectorStep, line_break
from megatron_ipt.errors import StageError
from megatron_ipt.extensions import own_file
from megatron_ipt.files import read_json, write_json
from megatron_ipt.inference.tokenizer import PromptTokenizer, open_prompt_tokenizer
from megatron_ipt.manifest import ShardMarkers, StageContext, fingerprint_code
from megatron_ipt.parallel import share_of
from megatron_ipt.selection.identity import model_fingerprint, tokenizer_fingerprint
from megatron_ipt.selection.rows import CorpusShard, shards_of
from megatron_ipt.stages import DOCUMENTS, TOKENS, Units
from megatron_ipt.tokens.dataset.description import DATASET

logger = logging.getLogger(__name__)

DETAILS = "composition.json"
"""In the folder of the stage: everything the report shows."""


def run(
    config: CompositionConfig, context: StageContext, shard: tuple[int, int] | None = None, until: str | None = None
) -> dict[str, Any]:
    """Composes contexts and writes rows; returns the counts.

    Args:
        config: section ``composition``.
        context: of the stage.
        shard: (i, N) does this share of each step only; without ``until``, as far as the others have come.
        until: ends after this step.

    Raises:
        InputError: the encoder, the filter or the corpus cannot be used.
        StageError: a step before is unfinished elsewhere, files do not fit together, or no context is kept.
    """
    work = _Work(config, context)
    for step in _steps(config):
        work.step(step, share_of(work.shards, shard))
        if step == until:
            return {}
    return {} if shard is not None else work.finish()


def _steps(config: CompositionConfig) -> tuple[str, ...]:
    return STEPS if config.filter.wanted() else (VECTORS, NEIGHBOURS)


def units(config: CompositionConfig, context: StageContext) -> Units:
    """Every shard of the corpus in every step."""
    shards = shards_of(context.inputs[DOCUMENTS])
    return Units(tuple(unit(step, shard) for step in _steps(config) for shard in shards))


def check(config: CompositionConfig) -> None:
    """Finds errors of encoder and filter before the corpus is made.

    Raises:
        RecipeError: the engine of the filter cannot be used.
        InputError: a model or tokenizer is not where the recipe says.
    """
    recipe_of(config.encoder)
    if config.filter.wanted():
        check_filter(config)


def fingerprints(config: CompositionConfig) -> list[dict[str, Any]]:
    """Of the encoder, and of the filter's model and tokenizer.

    Raises:
        InputError: a model or tokenizer is not where the recipe says.
    """
    found = [{"path": "composition.encoder", "model": encoder_fingerprint(config)}]
    if config.filter.wanted():
        found.append(
            {
                "path": "composition.filter",
                "model": model_fingerprint(config.filter.generation.model),
                "tokenizer": tokenizer_fingerprint(settings_of(config)),
            }
        )
        found += fingerprint_code(own_file(config.filter.engine))
    return found


def encoder_fingerprint(config: CompositionConfig) -> str:
    """Of the encoder's files and how they are used."""
    recipe = recipe_of(config.encoder)
    used = f"{recipe.pooling}-{recipe.normalize}-{recipe.max_tokens}-{config.encoder.dtype}"
    return f"{model_fingerprint(config.encoder.model)}-{used}"


class _Work:
    """The steps in one process."""

    def __init__(self, config: CompositionConfig, context: StageContext):
        self._config = config
        self._context = context
        self._directory = context.directory
        self._tokens = context.inputs[TOKENS]
        self.shards: list[CorpusShard] = shards_of(context.inputs[DOCUMENTS])
        self._names = [shard.name for shard in self.shards]
        dataset = read_json(self._tokens / DATASET)
        self._dtype = str(dataset["dtype"])
        self._tokenizer: PromptTokenizer = open_prompt_tokenizer(self._tokens / dataset["tokenizer"])
        self._break = line_break(self._tokenizer)
        self._encoder = encoder_fingerprint(config)
        self._known: Paragraphs | None = None

    def step(self, step: str, shards: list[CorpusShard]) -> None:
        """Makes what is missing of a step, for these shards."""
        if step == VECTORS:
            VectorStep(self._config, self._directory, self._tokenizer, self._dtype, self._encoder).work(shards)
        elif step == NEIGHBOURS:
            search_shards(self._config, self._directory, self.paragraphs, self._encoder, self._context.seed, shards)
            markers = ShardMarkers(self._directory)
            if all(markers.counts(unit(NEIGHBOURS, shard)) is not None for shard in self.shards):
                self._compose()
        else:
            self._compose()
            scoring = ScoreStep(self._config, self._directory, self.paragraphs, self._context.seed, self._names)
            scoring.work(step, shards)

    @property
    def paragraphs(self) -> Paragraphs:
        if self._known is None:
            self._known = Paragraphs(self._directory, self._names)
        return self._known

    def _compose(self) -> None:
        lengths = lengths_of(self._config, self.paragraphs, self._break)
        make_contexts(self._config, self._directory, self.paragraphs, lengths, self._context.seed, self._names)

    def finish(self) -> dict[str, Any]:
        """Keeps contexts, writes rows and the dataset; returns the counts."""
        config, directory, paragraphs = self._config, self._directory, self.paragraphs
        self._compose()
        made = ShardMarkers(directory).counts(f"{CONTEXTS}/all") or {}
        scores = read_scores(directory, self._names) if config.filter.wanted() else {}
        cut = threshold(config, scores) if scores else None
        kept = {name: self._kept(name, scores, cut) for name in self._names}
        contexts = [read_contexts(directory, name)[chosen] for name, chosen in kept.items()]
        rows = np.concatenate([no_contexts(config), *contexts])
        if not len(rows):
            why = (
                f"none of {made['queries']:,} paragraphs has a neighbour that may be taken and fits into "
                "composition.seq_length"
            )
            if made["contexts"] and cut is not None:
                why = f"none of {made['contexts']:,} contexts gains more than {cut:.4f} nats per token"
            raise StageError(f"composition: {why}; see {directory}")
        entry = write_rows(config, directory, paragraphs, self._context.seed, kept, self._break, self._dtype)
        dataset = write_dataset(config, directory, self._tokens, entry)
        lengths = lengths_of(config, paragraphs, self._break)
        total = lengths[rows["query"]] + np.where(rows["neighbours"] >= 0, lengths[rows["neighbours"]], 0).sum(1)
        gains = gain_measures(scores, cut) if cut is not None else {}
        warnings = warnings_of(len(paragraphs.unique), len(rows), made["contexts"], gains)
        for warning in warnings:
            logger.warning("composition: %s", warning)
        details: dict[str, Any] = {
            "gains": gains,
            "ranks": rank_measures(paragraphs),
            "uses": use_measures(uses_of(rows, paragraphs.count), paragraphs.unique),
            "fill": fill_measures(total, config.seq_length),
            "cards": cards(config, directory, paragraphs, kept, scores),
            "warnings": warnings,
        }
        write_json(directory / DETAILS, details)
        vectors = counts_of_vectors(paragraphs)
        refused = sum(int(np.isnan(each["gain"][each["kind"] == 0]).sum()) for each in scores.values())
        below = made["contexts"] - len(rows)
        return {
            "vocab_size": dataset["vocab_size"],
            "paragraphs": vectors["paragraphs"],
            "contexts": made["contexts"],
            "rows": len(rows),
            "row_tokens": entry["tokens"],
            "fill": details["fill"]["mean"],
            "weight": dataset["train"][-1]["weight"],
            **{
                split: {name: sum(other[name] for other in dataset[split]) for name in ("documents", "tokens")}
                for split in ("train", "valid", "test")
            },
            "train_by_source": {
                other["name"]: {"documents": other["documents"], "tokens": other["tokens"]}
                for other in dataset["train"]
            },
            "dropped": {
                "paragraph shorter than paragraph.minimum_tokens": vectors["too_short"],
                "paragraph longer than paragraph.maximum_tokens": vectors["too_long"],
                "paragraph that occurs before": paragraphs.count - len(paragraphs.unique),
                "query without a neighbour": made["without_neighbours"],
                "gain not above the threshold": below - refused,
                "refused by the filter's engine": refused,
            },
            "seconds_by_step": {step: self._seconds(step) for step in _steps(config)},
        }

    def _kept(self, name: str, scores: dict[str, Any], cut: float | None) -> Any:
        contexts = read_contexts(self._directory, name)
        if cut is None:
            return np.ones(len(contexts), np.bool_)
        own = scores[name][scores[name]["kind"] == 0]
        if len(own) != len(contexts) or not np.array_equal(own["query"], contexts["query"]):
            folder: Path = self._directory / SCORES
            raise StageError(
                f"{folder}: {name} is of other contexts; remove {folder} and run `megatron-ipt compose` again"
            )
        gains = own["gain"]
        return np.isfinite(gains) & (gains > cut)

    def _seconds(self, step: str) -> float:
        markers = ShardMarkers(self._directory)
        return math.fsum((markers.counts(f"{step}/{name}") or {}).get("seconds", 0.0) for name in self._names)
