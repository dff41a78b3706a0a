"""Stage ``evaluation``: parity of the exported model with the trained one, losses, benchmarks and generations.

Everything is measured on the exported folder with transformers; Megatron-Core runs only for the parity check.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from megatron_ipt.convert.stage import MODEL_FOLDER
from megatron_ipt.corpus.reading import input_fingerprints
from megatron_ipt.evaluation.config import EvaluationConfig
from megatron_ipt.evaluation.curves import measure_checkpoints, measure_once
from megatron_ipt.evaluation.harness import run as harness
from megatron_ipt.evaluation.held_out import first_documents, first_tokens
from megatron_ipt.evaluation.language_model import LanguageModel
from megatron_ipt.evaluation.measures import Measures
from megatron_ipt.evaluation.output_files import RESULTS
from megatron_ipt.evaluation.parity import check_parity, compare_logits, parity_tolerance
from megatron_ipt.files import write_json
from megatron_ipt.manifest import StageContext, fingerprint_file, read_manifest
from megatron_ipt.stages import CHECKPOINTS, MODEL, TOKENS
from megatron_ipt.training.checkpoints.model_file import ModelFile

_PROMPT_TOKENS = 32


def fingerprints(config: EvaluationConfig) -> list[dict[str, Any]]:
    """Fingerprints of the files named in the section."""
    options = config.read.options("evaluation.read")
    prints = []
    for name, path in config.texts.items():
        prints += input_fingerprints([path], options, f"evaluation.texts.{name}")
    shown = config.in_context.files.values() if config.in_context.mode != "none" else ()
    named: list[str | Path] = [*config.questions.values(), *shown, *config.harness.files()]
    return prints + [fingerprint_file(path) for path in named]


def run(config: EvaluationConfig, context: StageContext) -> dict[str, Any]:
    """Writes ``results.json``; returns the main metrics.

    Raises:
        StageError: the exported model does not match the trained one.
    """
    tokens = context.inputs[TOKENS]
    checkpoint = _exported_checkpoint(context)
    exported = context.inputs[MODEL] / MODEL_FOLDER
    seq_length = ModelFile.read(checkpoint).seq_length
    measures = Measures(config, tokens, seq_length, _sequences_isolated(context))
    # Loads benchmark data first, so that a failed download is reported before anything is computed.
    benchmarks = harness.load(config.harness)
    # Parity and generations work with any text, but held-out text is preferred.
    texts = measures.held_out or {entry["name"]: entry for entry in measures.dataset["train"]}
    model = LanguageModel(exported)

    results: dict[str, Any] = {
        "parity": _parity(config, context, model, checkpoint, tokens, texts, seq_length),
        "generations": [],
    }
    for prompt in _prompts(config, model, tokens, texts):
        results["generations"].append(
            {
                "prompt": model.tokenizer.decode(prompt, skip_special_tokens=True),
                "continuation": model.generate(prompt, config.max_new_tokens),
            }
        )
    del model  # Frees memory: `measure` loads the model again, for benchmarks in another data type.

    def measure(folder: Path) -> dict[str, Any]:
        figures = measures.run(LanguageModel(folder), context.directory)
        return figures | (
            {"harness": harness.run(config.harness, folder, benchmarks, config.in_context)} if benchmarks else {}
        )

    point = measure_once(context.directory, checkpoint, lambda: measure(exported))
    results |= {name: figures for name, figures in point.items() if name in ("perplexity", "questions", "harness")}
    if config.checkpoints == "all":
        dtype = (read_manifest(context.inputs[MODEL]) or {})["settings"]["dtype"]
        tokenizer = tokens / measures.dataset["tokenizer"]
        folder = context.inputs[CHECKPOINTS] / "checkpoints"
        measure_checkpoints(folder, tokenizer, dtype, context.directory, measure)
    write_json(context.directory / RESULTS, results)
    return {
        "logit_difference": results["parity"]["max_abs_difference"],
        **{f"{name}_loss": result["loss"] for name, result in results["perplexity"].items()},
        **{f"{name}_perplexity": result["perplexity"] for name, result in results["perplexity"].items()},
        **{f"{name}_accuracy": result["accuracy"] for name, result in results["questions"].items()},
        **{
            f"{name}_accuracy": result["accuracy"]
            for name, result in results.get("harness", {}).get("tasks", {}).items()
        },
    }


def _sequences_isolated(context: StageContext) -> bool:
    """Whether training reset the attention mask between documents or examples in one sequence."""
    settings = (read_manifest(context.inputs[CHECKPOINTS]) or {}).get("settings", {})
    return bool(settings.get("data", {}).get("reset_attention_mask"))


def _exported_checkpoint(context: StageContext) -> Path:
    manifest = read_manifest(context.inputs[MODEL]) or {}
    return context.inputs[CHECKPOINTS] / "checkpoints" / manifest["counts"]["checkpoint"]


def _parity(
    config: EvaluationConfig,
    context: StageContext,
    model: LanguageModel,
    checkpoint: Path,
    tokens: Path,
    texts: dict[str, dict[str, Any]],
    seq_length: int,
) -> dict[str, Any]:
    from megatron_ipt.training.checkpoint_model import CheckpointModel

    entry = max(texts.values(), key=lambda entry: entry["tokens"])
    ids = first_tokens(tokens, entry, config.parity_tokens)
    length = min(seq_length, len(ids))
    batch = torch.from_numpy(ids[: len(ids) // length * length].reshape(-1, length))
    with CheckpointModel(checkpoint) as trained_model:
        trained = trained_model.logits(batch)
    exported = model.logits(batch)
    exported_dtype = (read_manifest(context.inputs[MODEL]) or {})["counts"]["dtype"]
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
    """Ids of prompts: those in the recipe, or beginnings of documents, round-robin over the sets."""
    if config.prompts:
        return [model.tokenizer(prompt)["input_ids"] for prompt in config.prompts]
    documents = [_beginnings(tokens, entry, config.generations) for entry in texts.values()]
    in_turn = [group[i] for i in range(config.generations) for group in documents if i < len(group)]
    return in_turn[: config.generations]


def _beginnings(tokens: Path, entry: dict[str, Any], count: int) -> list[list[int]]:
    """Beginnings of documents; for rows with a loss mask, the tokens before the first predicted one."""
    if "loss_mask" not in entry:
        return [ids[:_PROMPT_TOKENS].tolist() for ids in first_documents(tokens, entry, count)]
    from megatron_ipt.tuning.rows import RowReader

    rows = RowReader(tokens / entry["prefix"], tokens / entry["loss_mask"])
    first = (rows[index] for index in range(min(count, len(rows))))
    return [row.ids[: max(1, int(row.mask.argmax()))].tolist() for row in first]
