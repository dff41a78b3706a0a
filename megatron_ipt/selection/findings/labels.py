"""How well scores agree with labels: do documents that someone judged good score above those judged bad?

The measure is the area under the ROC curve: the probability that a good document, drawn at random, has a higher value
than one with another label; ties count half. 0.5 says that the score cannot tell them apart, less that it prefers the
others. Nothing that is kept depends on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from megatron_ipt.errors import InputError, did_you_mean
from megatron_ipt.files import iter_lines
from megatron_ipt.selection.config import SelectionConfig
from megatron_ipt.selection.decide import Decision
from megatron_ipt.selection.order import Values, ranks
from megatron_ipt.selection.rows import Names, hash_of
from megatron_ipt.selection.score_sets import RowSource, log_likelihoods, look_up

SCORE = "score"
"""Name of what the rule orders by, beside the names of scorers."""
OTHERS = "all others"


@dataclass(frozen=True)
class Labels:
    """A user's labels.

    Attributes:
        ids: hashed ids, ascending.
        codes: places in ``names``.
        names: of the labels.
    """

    ids: npt.NDArray[np.uint64]
    codes: npt.NDArray[np.int32]
    names: list[str]


def read_labels(path: Path, good: str, section: str) -> Labels:
    """Reads JSON Lines of ``{"id": ..., "label": ...}``.

    Raises:
        InputError: a line is something else, an id has two labels, no document is labelled ``good``, or all are.
    """
    found: dict[int, int] = {}
    names = Names()
    for number, line in enumerate(iter_lines(path), 1):
        if not line.strip():
            continue
        try:
            record = orjson.loads(line)
            document_id, label = record["id"], record["label"]
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise InputError(f"{path}:{number}: expected an object with id and label: {error}") from error
        if not isinstance(document_id, str) or not isinstance(label, str):
            raise InputError(f"{path}:{number}: expected strings as id and label, found {line[:80]!r}")
        code = names.place(label)
        if found.setdefault(hash_of(document_id), code) != code:
            raise InputError(f"{path}:{number}: {document_id} has another label in a line before")
    known = names.to_json()
    if good not in known or len(known) == 1:
        what = f"no document is labelled {good!r}" if good not in known else f"all documents are labelled {good!r}"
        raise InputError(
            f"{section}.good_label: {what} in {path}; its labels are {', '.join(known) or 'none'}. Documents of this "
            f"label and of others are needed to compare them.{did_you_mean(good, known)}"
        )
    ids = np.array(list(found), np.uint64)
    order = np.argsort(ids, kind="stable")
    return Labels(ids[order], np.array(list(found.values()), np.int32)[order], known)


def roc_auc(good: Values, others: Values) -> float:
    """Probability that a value of ``good`` is larger than one of ``others``, ties counted half; NaN without both."""
    if not len(good) or not len(others):
        return float("nan")
    placed = ranks(np.concatenate([good, others]))[: len(good)]
    return float((placed.sum() - len(good) * (len(good) - 1) / 2) / (len(good) * len(others)))


def agreement(config: SelectionConfig, source: RowSource, decision: Decision) -> dict[str, Any]:
    """For every label: documents, kept documents, and the ROC AUC of the good ones against them by each score.

    Documents without a label, or without one of the scores, do not take part in that score's figure.

    Raises:
        InputError: the file cannot be used, or labels no document of this corpus.
    """
    assert config.labels
    path = Path(config.labels).expanduser()
    labels = read_labels(path, config.good_label, config.SECTION)
    codes = np.full(len(source), -1, np.int32)
    values = {SCORE: decision.values} | {name: np.full(len(source), np.nan) for name in _alone(config, source)}
    for _, place, sets in source:
        found, there = look_up(sets[0].rows["id"], labels.ids)
        codes[place] = np.where(there, labels.codes[found], -1)
        for name, each in zip(source.scorers, sets):
            if name in values:
                values[name][place] = log_likelihoods(each.rows, config.per)
    good = labels.names.index(config.good_label)
    present = [name for code, name in enumerate(labels.names) if (codes == code).any()]
    if config.good_label not in present or len(present) < 2:
        raise InputError(
            f"{config.key('labels')}: {path}: of the training {config.UNIT}s, "
            f"{int((codes == good).sum()):,} are labelled {config.good_label!r} and "
            f"{int(((codes >= 0) & (codes != good)).sum()):,} otherwise; both are needed. Are "
            "these labels of other data?"
        )
    return {
        "good": config.good_label,
        "scores": list(values),
        "unlabelled": int((codes < 0).sum()),
        "rows": list(_rows(labels.names, good, codes, decision, values)),
    }


def _rows(
    names: list[str], good: int, codes: npt.NDArray[np.int32], decision: Decision, values: Mapping[str, Values]
) -> Iterator[dict[str, Any]]:
    others = [code for code in range(len(names)) if code != good and (codes == code).any()]
    groups = [(names[good], codes == good), (OTHERS, (codes >= 0) & (codes != good))]
    groups += [(names[code], codes == code) for code in others] if len(others) > 1 else []
    for name, members in groups:
        auc = {}
        for score, of_score in values.items():
            known = ~np.isnan(of_score)
            area = roc_auc(of_score[known & (codes == good)], of_score[known & members])
            auc[score] = None if np.isnan(area) else area
        yield {
            "label": name,
            "rows": int(members.sum()),
            "kept": int(decision.kept[members].sum()),
            "auc": {} if members is groups[0][1] else auc,
        }


def _alone(config: SelectionConfig, source: RowSource) -> tuple[str, ...]:
    """Scorers whose own opinion is of interest: those of a difference."""
    return source.scorers if config.rule == "difference" else ()
