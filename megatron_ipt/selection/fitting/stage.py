"""Stage ``fitting``: fits a scorer to what the proxy runs said about a sample (PDS).

It ends with a folder that ``scoring`` takes as a scorer, or with an error if the scorer orders documents that it has
not seen no better than chance.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from megatron_ipt.errors import InputError
from megatron_ipt.files import atomic_folder, write_json
from megatron_ipt.inference.tokenizer import open_prompt_tokenizer
from megatron_ipt.manifest import StageContext, fingerprint_file, read_manifest
from megatron_ipt.models.hugging_face_config import config_file
from megatron_ipt.progress import Progress
from megatron_ipt.seeding import derive
from megatron_ipt.selection.fitting.config import FittingConfig
from megatron_ipt.selection.fitting.learned import SCORER_FOLDER, load_trunk, pooled, regressor, save, texts_of
from megatron_ipt.selection.identity import model_fingerprint
from megatron_ipt.selection.pds.fit import Fit, fit_scorer, linear_head, predict
from megatron_ipt.selection.proxy.stage import read_scores_of
from megatron_ipt.selection.proxy.texts import framing_of, token_rows
from megatron_ipt.stages import PROXY_SCORES

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

DETAILS = "fitting.json"
"""What the report shows."""
_MOST_POINTS = 2000
_WEAK = 0.2
_FEW = 100


def run(config: FittingConfig, context: StageContext) -> dict[str, Any]:
    """Fits a scorer and writes it.

    Raises:
        InputError: the trunk, its tokenizer and the settings do not fit each other, or scores are all equal.
        StageError: the scorer orders held-out documents no better than chance.
    """
    import torch

    proxy = context.inputs[PROXY_SCORES]
    documents, table = read_scores_of(proxy, context.compression)
    scores = np.array(table[config.learn], np.float64)
    tokenizer = open_prompt_tokenizer(config.tokenizer_path, "fitting.tokenizer")
    framing = framing_of(tokenizer, config.prepend_bos, config.append_eod)
    rows = [
        row.ids.tolist()
        for row in token_rows([each.text for each in documents], tokenizer, framing, config.seq_length - 1)
    ]
    torch.manual_seed(derive(context.seed, "fitting") % 2**63)
    trunk = load_trunk(config.trunk, "fitting.trunk")
    _check(config, trunk, documents, rows)
    device = _device(config)
    trunk = trunk.to(device)
    head = linear_head(trunk.config.hidden_size).to(device)

    def inputs(places: Sequence[int]) -> Any:
        return texts_of([rows[place] for place in places], device)

    passes = len(rows) * (config.epochs if config.train_trunk else 1)
    with Progress("fitting", passes, "documents") as bar:
        if config.train_trunk:
            model, given = regressor(trunk, head), _counted(inputs, bar)
        else:
            features = _features(trunk, inputs, len(rows), config.batch_documents, bar)
            model, given = head, lambda places: features[list(places)]
        ids = [document.id for document in documents]
        fit = fit_scorer(model, given, ids, scores, config.settings(context.seed))
    predicted = predict(model, given, fit.held_out, config.batch_documents)
    found = (read_manifest(proxy) or {}).get("counts", {})
    about = {
        "spearman": fit.spearman,
        "epoch": fit.epoch,
        "by_epoch": fit.by_epoch,
        "learned": config.learn,
        "mean": fit.mean,
        "deviation": fit.deviation,
        "documents": len(rows),
        "held_out": len(fit.held_out),
        "trunk": config.trunk,
        "seq_length": config.seq_length,
        "prepend_bos": config.prepend_bos,
        "append_eod": config.append_eod,
        "target_documents": found.get("target_documents"),
    }
    with atomic_folder(context.directory / SCORER_FOLDER) as folder:
        save(folder, trunk, head, config.tokenizer_path, about)
    details = about | _details(fit, scores, predicted)
    for warning in details["warnings"]:
        logger.warning("fitting: %s", warning)
    write_json(context.directory / DETAILS, details)
    return {
        "documents": len(rows) - len(fit.held_out),
        "held_out_documents": len(fit.held_out),
        "spearman": fit.spearman,
        "epoch": fit.epoch,
    }


def check(config: FittingConfig) -> None:
    """Finds errors before the corpus is made.

    Raises:
        InputError: the trunk or the tokenizer is not where the recipe says.
    """
    if not config_file(config.trunk).is_file():
        raise InputError(
            f"fitting.trunk: {config.trunk} is no Hugging Face folder (no config.json); `megatron-ipt "
            "export-checkpoint` makes one of a Megatron checkpoint"
        )
    open_prompt_tokenizer(config.tokenizer_path, "fitting.tokenizer")


def fingerprints(config: FittingConfig) -> list[dict[str, Any]]:
    """Fingerprints of the trunk and its tokenizer.

    Raises:
        InputError: one of them is not there.
    """
    check(config)
    tokenizer = open_prompt_tokenizer(config.tokenizer_path, "fitting.tokenizer").path
    return [
        {"path": config.trunk, "model": model_fingerprint(config.trunk)},
        *([] if tokenizer is None else [fingerprint_file(tokenizer)]),
    ]


def gpus_per_task(config: FittingConfig) -> int:
    """GPUs that the stage needs by default."""
    return 0 if config.device == "cpu" else 1


def _device(config: FittingConfig) -> str:
    import torch

    if config.device != "auto":
        return config.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _check(config: FittingConfig, trunk: Any, documents: Sequence[Any], rows: Sequence[Any]) -> None:
    limit = getattr(trunk.config, "max_position_embeddings", None)
    if limit is not None and limit < config.seq_length:
        raise InputError(
            f"fitting.seq_length: {config.seq_length} is more than the {limit} positions of {config.trunk}"
        )
    for document, row in zip(documents, rows):
        if not len(row):
            raise InputError(
                f"fitting.tokenizer: document {document.id} has no tokens; use a tokenizer that knows its text"
            )
        if max(row) >= trunk.config.vocab_size:
            raise InputError(
                f"fitting.tokenizer: document {document.id} has the id {max(row)}, and {config.trunk} a "
                f"vocabulary of {trunk.config.vocab_size}; set it to the tokenizer of the trunk"
            )


def _counted(inputs: Callable[[Sequence[int]], Any], bar: Progress) -> Callable[[Sequence[int]], Any]:
    def given(places: Sequence[int]) -> Any:
        bar.advance(len(places))
        return inputs(places)

    return given


def _features(
    trunk: torch.nn.Module, inputs: Callable[[Sequence[int]], Any], rows: int, batch: int, bar: Progress
) -> torch.Tensor:
    """Means of the hidden states of all documents, [documents, width]."""
    import torch

    trunk.eval()
    parts = []
    with torch.no_grad():
        for first in range(0, rows, batch):
            places = range(first, min(first + batch, rows))
            parts.append(pooled(trunk, inputs(places)))
            bar.advance(len(places))
    return torch.cat(parts)


def _details(fit: Fit, scores: Any, predicted: Any) -> dict[str, Any]:
    """What the report shows besides: predictions of held-out documents against their scores, and warnings."""
    true = (scores[fit.held_out] - fit.mean) / fit.deviation
    step = max(1, len(true) // _MOST_POINTS)
    warnings = []
    if fit.spearman < _WEAK:
        warnings.append(
            f"the scorer orders held-out documents hardly better than chance (Spearman {fit.spearman:.2f}): score more "
            "documents in the proxy run, or fit a larger model"
        )
    if len(true) < _FEW:
        warnings.append(
            f"only {len(true)} held-out documents judge the scorer, so its Spearman correlation is uncertain by about "
            f"{1 / max(len(true) - 1, 1) ** 0.5:.2f}"
        )
    if fit.epoch == len(fit.by_epoch) and len(fit.by_epoch) > 1:
        warnings.append("the last epoch was the best: more of them may fit better")
    return {"points": {"score": true[::step].tolist(), "predicted": predicted[::step].tolist()}, "warnings": warnings}
