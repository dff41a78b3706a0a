"""A selection as text for a terminal: what would be kept, and the texts that show what the rule likes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from megatron_ipt.stages.readable import exact, percent, size

_MOST_GROUPS = 12
_WIDTH = 300
_PLACES = {"top": "at the top", "cut": "around the cut", "bottom": "at the bottom"}


def decision_text(found: Mapping[str, Any]) -> str:
    """The result of ``--dry-run``."""
    return "\n".join(_decision_lines(found))


def _decision_lines(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"{exact(found['kept'])} of {exact(found['rows'])} training {found['unit']}s would be kept"
    yield f"  {percent(found['kept_bytes'] / max(found['bytes'], 1))} of their bytes"
    if found["tokens"]:
        yield f"  {percent(found['kept_tokens'] / found['tokens'])} of their tokens"
    if found["cut"] is not None:
        yield f"  lowest score kept: {found['cut']:.4f}"
    yield f"  a random draw of the same size would share {percent(found['overlap_with_random'])} of them"
    if compared := found.get("compared"):
        others = ", ".join(f"{name} {scorer}" for name, scorer in compared["with"].items())
        yield f"  with {others}, {exact(compared['changed_sides'])} {found['unit']}s would change sides"
    for reason, count in found["left_out"].items():
        yield f"left out: {exact(count)} {reason}"
    for title, groups in (("by domain", found["by_domain"]), ("by source", found["by_source"])):
        if len(groups) > 1:
            yield f"kept {title}:"
            for name, counts in list(groups.items())[:_MOST_GROUPS]:
                yield f"  {percent(counts['kept'] / max(counts['rows'], 1)):>6}  {exact(counts['rows']):>12}  {name}"
    yield "kept by length:"
    for decile in found["by_length"]:
        share = percent(decile["kept"] / max(decile["rows"], 1))
        yield f"  {share:>6}  {exact(decile['rows']):>12}  from {size(decile['from_bytes'])}"
    if labels := found.get("labels"):
        yield f"kept by label, and ROC AUC of {labels['good']} against it:"
        for row in labels["rows"]:
            areas = ", ".join(f"{name} {area:.3f}" for name, area in row["auc"].items() if area is not None)
            share = percent(row["kept"] / max(row["rows"], 1))
            yield f"  {share:>6}  {exact(row['rows']):>12}  {row['label']}{f': {areas}' if areas else ''}"
    for warning in found["warnings"]:
        yield f"warning: {warning}"


def samples_text(found: Mapping[str, Any]) -> str:
    """The result of ``--show``."""
    return "\n".join(_sample_lines(found))


def _sample_lines(found: Mapping[str, Any]) -> Iterator[str]:
    if not found["samples"]:
        yield f"the rule {found['rule']} has no best or worst {found['unit']}s"
    for place, samples in found["samples"].items():
        yield f"{_PLACES[place]}:"
        for sample in samples:
            yield f"  {figures_of(sample, found)}  {sample['id']}"
            yield f"    {one_line(sample['text'])}"


def figures_of(sample: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """``score 0.512, teacher -2.103, reference -2.615 nats per token, kept``."""
    figures = [f"{name} {sample[name]:.3f}" for name in found["scorers"] if sample.get(name) is not None]
    unit = f" nats per {found['per']}" if figures and not found.get("learned") else ""
    parts = [f"score {sample['score']:.3f}", *figures]
    return f"{', '.join(parts)}{unit}, {'kept' if sample['kept'] else 'left out'}"


def one_line(text: str) -> str:
    """The beginning of a text without line breaks."""
    line = re.sub(r"\s+", " ", text).strip()
    return line if len(line) <= _WIDTH else f"{line[:_WIDTH]}..."
