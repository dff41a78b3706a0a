"""Stage ``evaluation``: is the exported model the trained one, how well does it predict, what does it write?

Everything is measured on the exported folder through transformers; Megatron-Core runs only to be compared with it.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from megatron_ipt.convert.stage import MODEL_FOLDER
from megatron_ipt.evaluation.config import EvaluationConfig
from megatron_ipt.evaluation.held_out import first_documents, first_tokens, training_frequencies, unigram_entropy
from megatron_ipt.evaluation.language_model import LanguageModel
from megatron_ipt.evaluation.parity import check_parity, compare_logits, parity_tolerance
from megatron_ipt.files import read_json, write_json
from megatron_ipt.manifest import StageContext, read_manifest
from megatron_ipt.training.model_file import ModelFile

logger = logging.getLogger(__name__)

RESULTS = "results.json"
_PROMPT_TOKENS = 32
_FREQUENCY_TOKENS = 100_000_000


def run(config: EvaluationConfig, context: StageContext) -> dict[str, Any]:
    """Writes ``results.json``; returns its figures.

    Raises:
        StageError: the exported model is not the trained one.
    """
    tokens = context.inputs["tokens"]
    dataset = read_json(tokens / "dataset.json")
    held_out = {entry["name"]: entry for entry in dataset["valid"] if entry["tokens"] > 1}
    if not held_out:
        logger.warning("evaluation: no document was held out, so there is no perplexity; corpus.valid_share sets some")
    # Parity and generations need any text; held-out text is the better one.
    texts = held_out or {entry["name"]: entry for entry in dataset["train"]}
    checkpoint = _exported_checkpoint(context)
    seq_length = ModelFile.read(checkpoint).seq_length
    model = LanguageModel(context.inputs["export"] / MODEL_FOLDER)

    results: dict[str, Any] = {
        "parity": _parity(config, context, model, checkpoint, tokens, texts, seq_length),
        "perplexity": {},
        "generations": [],
    }
    frequencies = training_frequencies(tokens, dataset["train"], dataset["vocab_size"], _FREQUENCY_TOKENS)
    for name, entry in held_out.items():
        ids = first_tokens(tokens, entry, config.perplexity_tokens)
        results["perplexity"][name] = {
            **model.loss(ids, seq_length, f"evaluation {name}"),
            "unigram_entropy": unigram_entropy(ids[1:], frequencies),
        }
    for prompt in _prompts(config, model, tokens, texts):
        results["generations"].append(
            {
                "prompt": model.tokenizer.decode(prompt, skip_special_tokens=True),
                "continuation": model.generate(prompt, config.max_new_tokens),
            }
        )
    write_json(context.directory / RESULTS, results)
    return {
        "logit_difference": results["parity"]["max_abs_difference"],
        **{f"{name}_loss": result["loss"] for name, result in results["perplexity"].items()},
        **{f"{name}_perplexity": result["perplexity"] for name, result in results["perplexity"].items()},
    }


def _exported_checkpoint(context: StageContext) -> Path:
    manifest = read_manifest(context.inputs["export"]) or {}
    return context.inputs["training"] / "checkpoints" / manifest["counts"]["checkpoint"]


def _parity(
    config: EvaluationConfig,
    context: StageContext,
    model: LanguageModel,
    checkpoint: Path,
    tokens: Path,
    texts: dict[str, dict[str, Any]],
    seq_length: int,
) -> dict[str, Any]:
    from megatron_ipt.training.inference import CheckpointModel

    entry = max(texts.values(), key=lambda entry: entry["tokens"])
    ids = first_tokens(tokens, entry, config.parity_tokens)
    length = min(seq_length, len(ids))
    batch = torch.from_numpy(ids[: len(ids) // length * length].reshape(-1, length))
    with CheckpointModel(checkpoint) as trained_model:
        trained = trained_model.logits(batch)
    exported = model.logits(batch)
    exported_dtype = (read_manifest(context.inputs["export"]) or {})["counts"]["dtype"]
    tolerance = parity_tolerance(config.parity_tolerance, ModelFile.read(checkpoint).dtype, exported_dtype)
    result = {
        "tokens": batch.numel(),
        "tolerance": tolerance,
        **compare_logits(trained.flatten(0, 1), exported.flatten(0, 1)),
    }
    check_parity(result, tolerance)
    return result


def _prompts(
    config: EvaluationConfig, model: LanguageModel, tokens: Path, texts: dict[str, dict[str, Any]]
) -> list[list[int]]:
    """Ids to continue: the recipe's prompts, or beginnings of documents from every set in turn."""
    if config.prompts:
        return [model.tokenizer(prompt)["input_ids"] for prompt in config.prompts]
    documents = [first_documents(tokens, entry, config.generations) for entry in texts.values()]
    in_turn = [group[i] for i in range(config.generations) for group in documents if i < len(group)]
    return [ids[:_PROMPT_TOKENS].tolist() for ids in in_turn[: config.generations]]
