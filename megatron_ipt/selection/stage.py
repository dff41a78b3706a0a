"""Stage ``selection``: keeps a share of the training documents by their scores, in the layout of a corpus.

It never scores. The decision takes seconds, because it reads numbers; laying out copies each kept line once. Later
stages read the result as they read the corpus.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from megatron_ipt.errors import InputError, StageError
from megatron_ipt.files import read_json, write_json
from megatron_ipt.manifest import StageContext, fingerprint_file, fingerprint_stage, read_manifest
from megatron_ipt.selection.config import SelectionConfig
from megatron_ipt.selection.decide import Decision, decide
from megatron_ipt.selection.findings.labels import agreement, read_labels
from megatron_ipt.selection.findings.measures import chosen_rows, measures
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
    for warning in found["warnings"]:
        logger.warning("selection: %s", warning)
    chosen = chosen_rows(decision, config.samples) if config.rule != "random" else {}
    counts, texts = write_corpus(config, context, source, decision, chosen)
    samples = {name: [texts[row] for row in rows] for name, rows in chosen.items()}
    details = found | {"per": config.per, "scorers": list(source.scorers), "learned": source.learned}
    details["samples"] = samples
    write_json(context.directory / DETAILS, details)
    return {
        **counts,
        "rows": found["rows"],
        "kept": found["kept"],
        "left_out_documents": found["rows"] - found["kept"],
        "dropped": found["left_out"],
        "kept_tokens": found["kept_tokens"],
        "kept_bytes": found["kept_bytes"],
    }


def dry_run(config: SelectionConfig, context: StageContext) -> dict[str, Any]:
    """What :func:`run` would keep; nothing is written."""
    found = _decide(config, context)[2]
    return {name: value for name, value in found.items() if name not in ("histogram", "relation")}


def show(config: SelectionConfig, context: StageContext) -> dict[str, Any]:
    """Texts at the top, at the cut and at the bottom of a finished selection.

    Raises:
        StageError: it is not finished.
    """
    if (read_manifest(context.directory) or {}).get("status") != "complete":
        raise StageError(f"{context.directory}: this stage is not complete; run it first")
    details = read_json(context.directory / DETAILS)
    shown = {name: details[name] for name in ("rule", "per", "scorers", "cut", "samples")}
    return shown | {"learned": details.get("learned", False)}


def check(config: SelectionConfig) -> None:
    """Finds errors in a user's files of scores and labels before the corpus is made.

    Raises:
        InputError: one cannot be used.
    """
    if (path := config.scores_file()) is not None:
        read_scores(path)
    if config.labels:
        read_labels(Path(config.labels).expanduser(), config.good_label)


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
    source = open_source(config, corpus, scoring)
    if not len(source):
        raise InputError(f"selection: {corpus}: no training document")
    decision = decide(config, source, context.seed)
    found = measures(config, source, decision, context.seed)
    if config.labels:
        found["labels"] = agreement(config, source, decision)
    if (other := config.compared()) is not None:
        others = decide(other, open_source(other, corpus, scoring), context.seed).kept
        found["compared"] = {
            "with": config.compare_with,
            "kept_by_both": int((decision.kept & others).sum()),
            "kept_by_other": int(others.sum()),
            "changed_sides": int((decision.kept != others).sum()),
        }
    return source, decision, found
