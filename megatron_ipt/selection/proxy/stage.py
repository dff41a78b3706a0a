"""Stage ``proxy``: scores a sample of the corpus by what training on each document does for a target (PDS).

A run from one starting point is the unit of resume: its solution is one array and a marker, so a rerun repeats at most
one run. Scores are averaged over starting points; where there are several outer steps, they improve the weights of the
documents with which the runs of the next one begin.
"""

from __future__ import annotations

import logging
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_ipt.corpus.documents import Document
from megatron_ipt.corpus.reading import input_fingerprints
from megatron_ipt.errors import InputError, StageError
from megatron_ipt.files import COMPRESSIONS, atomic_jsonl, atomic_open, read_jsonl, write_json
from megatron_ipt.inference.tokenizer import open_prompt_tokenizer
from megatron_ipt.manifest import ShardMarkers, StageContext, fingerprint_file
from megatron_ipt.models.hugging_face_config import config_file
from megatron_ipt.selection.identity import model_fingerprint
from megatron_ipt.selection.order import spearman
from megatron_ipt.selection.pds.language_model import TokenRow
from megatron_ipt.selection.pds.simplex import project
from megatron_ipt.selection.pds.target import refuse_shared_rows
from megatron_ipt.selection.proxy.config import ProxyConfig
from megatron_ipt.selection.proxy.sample import draw, target_texts
from megatron_ipt.selection.proxy.start import Solved, Start, solve_start
from megatron_ipt.selection.proxy.texts import framing_of, predicts, token_rows
from megatron_ipt.selection.rows import hash_of
from megatron_ipt.stages import DOCUMENTS

logger = logging.getLogger(__name__)

Values = npt.NDArray[np.float64]

ROW = np.dtype([("id", "<u8"), ("score", "<f8"), ("weight", "<f8"), ("tokens", "<i4")])
"""A document: hash of its id, its score, its weight after the last outer step, and the tokens it was scored by."""
SCORES_FILE = "scores.npy"
"""In the folder of the stage, as :data:`ROW`; also a file of scores for ``selection.scores``."""
DETAILS = "proxy.json"
"""What the report shows."""
_SOLUTIONS = "solutions"
_DRAW = "draw"
_FEWEST_BINS, _MOST_BINS = 10, 60
_SHOWN, _SHOWN_CHARACTERS = 10, 600
_LENGTH_CORRELATION = 0.5
_AGREEMENT = 0.2
_MOST_GROWTH = 5.0
"""Of lambda, times the steps of the run: without curvature it would grow by one gradient of J with every step."""


def documents_file(folder: Path, compression: str) -> Path:
    """The documents of the draw, in the order of :data:`SCORES_FILE`."""
    return folder / f"documents.jsonl{COMPRESSIONS[compression]}"


def target_file(folder: Path, compression: str) -> Path:
    """The target texts."""
    return folder / f"target.jsonl{COMPRESSIONS[compression]}"


def run(config: ProxyConfig, context: StageContext) -> dict[str, Any]:
    """Draws documents, solves from every starting point and writes the scores.

    Raises:
        InputError: a target text occurs in the corpus or where models are evaluated, or a model, its tokenizer and the
            settings do not fit each other.
        StageError: a run diverged, or the step of central differences is unfit.
    """
    folder = context.directory
    markers = ShardMarkers(folder)
    counts = markers.counts(_DRAW) or _draw(config, context, markers)
    documents = [Document.from_json(record) for record in read_jsonl(documents_file(folder, context.compression))]
    target = [Document.from_json(record) for record in read_jsonl(target_file(folder, context.compression))]
    rows = _rows(config, documents)
    target_rows = _rows(config, target)
    weights = np.full(len(rows), 1 / len(rows))
    curves: list[list[float]] = []
    solved: list[Solved] = []
    for outer in range(config.outer_steps):
        solved = []
        for number, model in enumerate(config.starts):
            name = f"{_SOLUTIONS}/{outer:02}-{number:02}"
            array = folder / f"{name}.npy"
            if markers.counts(name) is None:
                label = f"proxy {outer * len(config.starts) + number + 1}/{config.outer_steps * len(config.starts)}"
                own = None if outer == 0 else weights
                ids = [document.id for document in documents]
                _save(array, markers, name, solve_start(Start(config, model, label, rows, ids, target_rows, own,
                    context.seed)))  # fmt: skip
            solved.append(_load(array, markers, name, len(rows)))
        curves.append(_mean([each.targets for each in solved]))
        scores = np.mean([each.scores for each in solved], axis=0)
        weights = improved(weights, scores, config.outer_step_size)
    table = np.zeros(len(rows), ROW)
    table["id"] = [hash_of(document.id) for document in documents]
    table["score"], table["weight"] = scores, weights
    table["tokens"] = [len(row.ids) for row in rows]
    details = _details(config, documents, table, solved, curves)
    for warning in details["warnings"]:
        logger.warning("proxy: %s", warning)
    with atomic_open(folder / SCORES_FILE) as stream:
        np.lib.format.write_array(stream, table, allow_pickle=False)
    write_json(folder / DETAILS, details)
    return {
        **counts,
        "tokens": int(table["tokens"].sum()),
        "target_tokens": sum(len(row.ids) for row in target_rows),
        "starts": len(config.starts),
        "runs": len(config.starts) * config.outer_steps,
        "target_loss_before": curves[-1][0],
        "target_loss_after": curves[-1][-1],
    }


def improved(weights: Values, scores: Values, step_size: float) -> Values:
    """Weights after an outer step, on the simplex.

    They move by ``step_size / rows`` for each standard deviation by which a score lies above the mean of all; scores
    that are all equal move nothing.
    """
    deviation = float(scores.std())
    if not deviation > 0:
        return weights
    import torch

    moved = weights + step_size / len(weights) * (scores - scores.mean()) / deviation
    projected: Values = project(torch.from_numpy(moved)[None])[0].numpy()
    return projected


def read_scores_of(folder: Path, compression: str) -> tuple[list[Document], npt.NDArray[np.void]]:
    """(documents, their :data:`ROW`) of a finished stage.

    Raises:
        StageError: the two do not belong together.
    """
    documents = [Document.from_json(record) for record in read_jsonl(documents_file(folder, compression))]
    table = _array(folder / SCORES_FILE)
    if table.dtype != ROW or table["id"].tolist() != [hash_of(document.id) for document in documents]:
        raise StageError(
            f"{folder / SCORES_FILE}: does not hold the scores of the {len(documents):,} documents beside it; run "
            "`megatron-ipt proxy` with --overwrite"
        )
    return documents, table


def check(config: ProxyConfig) -> None:
    """Finds errors before the corpus is made.

    Raises:
        InputError: a starting point, a tokenizer or a file is not where the recipe says.
    """
    for number, start in enumerate(config.starts):
        if not config_file(start).is_file():
            raise InputError(
                f"proxy.starts[{number}]: {start} is no Hugging Face folder (no config.json); "
                "`megatron-ipt export-checkpoint` makes one of a Megatron checkpoint"
            )
    open_prompt_tokenizer(config.tokenizer_path, "proxy.tokenizer")
    fingerprints(config)


def fingerprints(config: ProxyConfig) -> list[dict[str, Any]]:
    """Fingerprints of the starting points, the tokenizer and the files of the target.

    Raises:
        InputError: one of them is not there.
    """
    tokenizer = open_prompt_tokenizer(config.tokenizer_path, "proxy.tokenizer").path
    return [
        *({"path": start, "model": model_fingerprint(start)} for start in config.starts),
        *([] if tokenizer is None else [fingerprint_file(tokenizer)]),
        *input_fingerprints(config.target, config.read.options("proxy.read"), "proxy.target"),
    ]


def gpus_per_task(config: ProxyConfig) -> int:
    """GPUs that the stage needs by default: one for each rank."""
    return 0 if config.device == "cpu" else config.ranks


def _draw(config: ProxyConfig, context: StageContext, markers: ShardMarkers) -> dict[str, Any]:
    """Writes documents and target texts, those that have something to predict."""
    folder = context.directory
    target = target_texts(config, folder / "target_rejects.jsonl")
    documents, everything = draw(config, context.inputs[DOCUMENTS], target, context.seed)
    usable, rows = zip(*(_usable(config, texts) for texts in (documents, target)))
    for texts, path, what in zip(usable, (documents_file, target_file), ("documents", "target texts")):
        if (len(texts) < 2 and what == "documents") or not texts:
            raise InputError(f"proxy: {len(texts)} {what} have a token to predict; draw more of them")
        with atomic_jsonl(path(folder, context.compression)) as writer:
            for document in texts:
                writer.write(document.to_json())
    refuse_shared_rows(*([row.ids for row in own] for own in reversed(rows)))
    counts = {
        "documents": len(usable[0]),
        "corpus_documents": everything,
        "target_documents": len(usable[1]),
        "dropped": {"nothing to predict": len(documents) + len(target) - len(usable[0]) - len(usable[1])},
    }
    markers.finish(_DRAW, counts)
    return counts


def _usable(config: ProxyConfig, documents: list[Document]) -> tuple[list[Document], list[TokenRow]]:
    """Those with something to predict, and their rows."""
    kept = [(document, row) for document, row in zip(documents, _rows(config, documents)) if predicts(row)]
    return [document for document, _ in kept], [row for _, row in kept]


def _rows(config: ProxyConfig, documents: list[Document]) -> list[TokenRow]:
    tokenizer = open_prompt_tokenizer(config.tokenizer_path, "proxy.tokenizer")
    framing = framing_of(tokenizer, config.prepend_bos, config.append_eod)
    return token_rows([document.text for document in documents], tokenizer, framing, config.seq_length)


def _save(array: Path, markers: ShardMarkers, name: str, solved: Solved) -> None:
    with atomic_open(array) as stream:
        np.lib.format.write_array(stream, solved.scores, allow_pickle=False)
    markers.finish(name, {"targets": solved.targets, "costates": solved.costates, "step_error": solved.step_error})


def _load(array: Path, markers: ShardMarkers, name: str, rows: int) -> Solved:
    scores = _array(array)
    if scores.shape != (rows,):
        raise StageError(f"{array}: has shape {scores.shape} for {rows} documents; remove its marker and run again")
    found = markers.counts(name) or {}
    return Solved(scores, found["targets"], found["costates"], found["step_error"])


def _array(path: Path) -> npt.NDArray[Any]:
    try:
        found: npt.NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise StageError(
            f"{path}: cannot be read: {error}. Remove its marker beside it and run the stage again."
        ) from error
    return found


def _mean(curves: list[list[float]]) -> list[float]:
    return [statistics.fmean(values) for values in zip(*curves)]


def _details(
    config: ProxyConfig, documents: list[Document], table: npt.NDArray[np.void], solved: list[Solved],
    curves: list[list[float]],
) -> dict[str, Any]:  # fmt: skip
    """What the report shows."""
    scores = table["score"]
    rows, edges = np.histogram(scores, min(_MOST_BINS, max(_FEWEST_BINS, math.isqrt(len(scores)))))
    order = np.argsort(-scores, kind="stable")
    agreements = [spearman(one.scores, two.scores) for number, one in enumerate(solved) for two in solved[:number]]
    found = {
        "targets": curves,
        "by_start": [
            {"model": model, "targets": each.targets, "costates": each.costates}
            for model, each in zip(config.starts, solved)
        ],
        "costates": _mean([each.costates for each in solved]),
        "histogram": {"edges": edges.tolist(), "rows": rows.tolist()},
        "helpful": int((scores > 0).sum()),
        "with_weight": int((table["weight"] > 0).sum()),
        "length_correlation": spearman(scores, table["tokens"]),
        "agreement": statistics.fmean(agreements) if agreements else None,
        "step_error": max((each.step_error for each in solved if each.step_error is not None), default=None),
        "samples": {
            "top": [_shown(documents[place], scores[place]) for place in order[:_SHOWN]],
            "bottom": [_shown(documents[place], scores[place]) for place in order[-_SHOWN:]],
        },
    }
    return found | {"warnings": list(_warnings(found))}


def _shown(document: Document, score: float) -> dict[str, Any]:
    return {"id": document.id, "score": float(score), "text": document.text[:_SHOWN_CHARACTERS]}


def _warnings(found: dict[str, Any]) -> list[str]:
    curve = found["targets"][-1]
    warnings = []
    if curve[-1] >= curve[0] and len(curve) > 1:
        warnings.append(
            f"the target loss rose from {curve[0]:.3f} to {curve[-1]:.3f} over the run: lower proxy.learning_rate, or "
            "start from a model that is trained further"
        )
    costates = found["costates"]
    if costates[0] > _MOST_GROWTH * len(costates) * costates[-1]:
        warnings.append(
            f"lambda grows from {costates[-1]:.3g} at the end of the run to {costates[0]:.3g} at its beginning, more "
            f"than the gradients of {len(costates)} steps add up to: the run is unstable, and scores are mostly noise; "
            "lower proxy.learning_rate"
        )
    if abs(found["length_correlation"]) > _LENGTH_CORRELATION:
        warnings.append(
            f"scores follow the length of documents (rank correlation {found['length_correlation']:+.2f}), so the "
            "selection will, too"
        )
    if found["agreement"] is not None and found["agreement"] < _AGREEMENT:
        warnings.append(
            f"starting points hardly agree on documents (mean rank correlation {found['agreement']:+.2f}): scores are "
            "mostly noise; take a longer run or starting points that are trained further"
        )
    return warnings
