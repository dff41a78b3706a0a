"""Stage ``selection``: keeps a share of the training documents by their scores, in the layout of a corpus.

It never scores. The decision takes seconds, because it reads numbers; laying out copies each kept line once. Later
stages read the result as they read the corpus.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from megatron_ipt.errors import InputError, StageError
from megatron_ipt.files import read_json, write_json
from megatron_ipt.manifest import StageContext, fingerprint_file, fingerprint_stage, read_manifest
from megatron_ipt.selection.config import SelectionConfig
from megatron_ipt.selection.decide import Decision, decide
from megatron_ipt.selection.findings.labels import agreement, read_labels
from megatron_ipt.selection.findings.measures import chosen_rows, measures
from megatron_ipt.selection.findings.texts import warnings_about_texts
from megatron_ipt.selection.layout import write_corpus
from megatron_ipt.selection.score_sets import RowSource, open_source, read_scores
from megatron_ipt.stages import DOCUMENTS, SCORES

logger = logging.getLogger(__name__)

DETAILS = "selection.json"
"""In the folder of the stage: everything the report shows."""


def run(config: SelectionConfig, context: StageContext) -> dict[str, Any]:
    """Decides, and writes the lanes; returns the counts, those of a corpus among them.

    Raises:
        RecipeError: a scorer or a domain does not exist, scorers cannot be compared, or the share keeps nothing.
        InputError: a user's file of scores or labels cannot be used.
        StageError: scores are missing, of another corpus or all the same.
    """
    source, decision, found = _decide(config, context)
    chosen = chosen_rows(decision, config.samples) if config.rule != "random" else {}
    counts, texts = write_corpus(config, context, source, decision, chosen)
    samples = {name: [texts[row] for row in rows] for name, rows in chosen.items()}
    save_details(config, context.directory, source, found, samples)
    return {**counts, **counts_of(found), "left_out_documents": found["rows"] - found["kept"]}


def save_details(
    config: SelectionConfig,
    directory: Path,
    source: RowSource,
    found: dict[str, Any],
    samples: dict[str, list[dict[str, Any]]],
) -> None:
    """Writes what the report and ``--show`` show, and says the warnings."""
    found["warnings"] += warnings_about_texts(samples)
    for warning in found["warnings"]:
        logger.warning("%s: %s", config.SECTION, warning)
    details = found | {"per": config.per, "scorers": list(source.scorers), "learned": source.learned}
    details["samples"] = samples
    write_json(directory / DETAILS, details)


def counts_of(found: dict[str, Any]) -> dict[str, Any]:
    """Counts of rows for the manifest."""
    kept = {name: found[name] for name in ("rows", "kept", "kept_tokens", "kept_bytes")}
    return kept | {"dropped": found["left_out"]}


def dry_run(config: SelectionConfig, context: StageContext) -> dict[str, Any]:
    """What :func:`run` would keep; nothing is written."""
    return shown(_decide(config, context)[2])


def shown(found: dict[str, Any]) -> dict[str, Any]:
    """What ``--dry-run`` shows."""
    return {name: value for name, value in found.items() if name not in ("histogram", "relation")}


def show(config: SelectionConfig, context: StageContext) -> dict[str, Any]:
    """Texts at the top, at the cut and at the bottom of a finished selection.

    Raises:
        StageError: it is not finished.
    """
    if (read_manifest(context.directory) or {}).get("status") != "complete":
        raise StageError(f"{context.directory}: this stage is not complete; run it first")
    details = read_json(context.directory / DETAILS)
    kept = {name: details[name] for name in ("rule", "unit", "per", "scorers", "cut", "samples")}
    return kept | {"learned": details.get("learned", False)}


def check(config: SelectionConfig) -> None:
    """Finds errors in a user's files of scores and labels before the corpus is made.

    Raises:
        InputError: one cannot be used.
    """
    if (path := config.scores_file()) is not None:
        read_scores(path, config.SECTION)
    if config.labels:
        read_labels(Path(config.labels).expanduser(), config.good_label, config.SECTION)


def fingerprints(config: SelectionConfig) -> list[dict[str, Any]]:
    """Fingerprints of a user's file of scores, and of the scores of another run.

    Raises:
        StageError: that run has not finished scoring.
    """
    path = config.scores_file()
    files = [] if path is None else [fingerprint_file(path)]
    return [*files, *([fingerprint_stage(Path(config.scored_in))] if config.scored_in else [])]


def _decide(config: SelectionConfig, context: StageContext) -> tuple[RowSource, Decision, dict[str, Any]]:
    corpus: Path = context.inputs[DOCUMENTS]
    scoring = Path(config.scored_in) if config.scored_in else context.inputs.get(SCORES)
    return decide_and_measure(config, lambda own: open_source(own, corpus, scoring), context.seed)


def decide_and_measure(
    config: SelectionConfig, opened: Callable[[SelectionConfig], RowSource], seed: int
) -> tuple[RowSource, Decision, dict[str, Any]]:
    """(rows, what is kept of them, everything the report shows of it).

    Args:
        opened: the rows with the scores that a section names.
    """
    source = opened(config)
    if not len(source):
        raise InputError(f"{config.SECTION}: {source.corpus}: no training {config.UNIT}")
    decision = decide(config, source, seed)
    found = measures(config, source, decision, seed)
    if config.labels:
        found["labels"] = agreement(config, source, decision)
    if (other := config.compared()) is not None:
        others = decide(other, opened(other), seed).kept
        found["compared"] = {
            "with": config.compare_with,
            "kept_by_both": int((decision.kept & others).sum()),
            "kept_by_other": int(others.sum()),
            "changed_sides": int((decision.kept != others).sum()),
        }
    return source, decision, found
