"""What the page about a run shows of this room: how much text was read, from which files, and what was rejected."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from megatron_ipt.corpus.documents import SPLITS
from megatron_ipt.stages.page import (
    Bars,
    Column,
    Element,
    Figure,
    Figures,
    Fold,
    Part,
    Row,
    SideBySide,
    StageRecord,
    Step,
    Table,
)
from megatron_ipt.stages.readable import compact, exact, plural, size

_MOST_FILES = 10
_MOST_REASONS = 12


def part(stage: StageRecord) -> Part:
    """The corpus on the page."""
    counts = stage.counts
    if not counts:
        return Part()
    files = [entry for entry in stage.manifest.get("inputs", ()) if not entry.get("code")]
    read = plural(counts["documents"], "document")
    rejected = sum(counts.get("rejected", {}).values())
    total_bytes = size(sum(entry.get("bytes") or 0 for entry in files))
    figures = [
        Figure("documents", exact(counts["documents"]), _characters_each(counts)),
        Figure("to get pairs", exact(counts.get("synthesis_documents", 0))),
        Figure("kept as they are", exact(counts.get("raw_documents", 0))),
        Figure("file" if counts["files"] == 1 else "files", exact(counts["files"]), total_bytes),
        Figure("rejected", exact(rejected)),
    ]
    splits = counts.get("splits", {})
    return Part(
        title="Corpus",
        step=Step(
            into=f"from {plural(counts['files'], 'file')}, {total_bytes}",
            amount=compact(counts["documents"]),
            unit="document" if counts["documents"] == 1 else "documents",
            detail=f"{compact(rejected) if rejected else 'none'} rejected",
        ),
        headline=f"{read} read",
        elements=[
            Figures(figures),
            SideBySide(
                [
                    Bars("Splits", {name: splits[name] for name in SPLITS if name in splits}, in_order=True),
                    Bars(
                        "Rejected records",
                        counts.get("rejected", {}),
                        most=_MOST_REASONS,
                        note=f"Each is listed with file and line in `{stage.name}/rejects.jsonl`.",
                        if_empty="None: every record read was used.",
                    ),
                ]
            ),
            Fold("Input files", _largest(files, counts)),
        ],
    )


def _characters_each(counts: Mapping[str, Any]) -> str:
    if not counts["documents"]:
        return ""
    return f"{exact(round(counts['characters'] / counts['documents']))} characters each"


def _largest(files: list[Mapping[str, Any]], counts: Mapping[str, Any]) -> list[Element]:
    """The largest files, and what there is to say of the others."""
    largest = sorted(files, key=lambda entry: (-(entry.get("bytes") or 0), entry["path"]))[:_MOST_FILES]
    rows = [Row((PurePath(entry["path"]).name, size(entry.get("bytes")))) for entry in largest]
    notes = []
    if counts["files"] > len(rows):
        notes.append(f"The {len(rows)} largest of {exact(counts['files'])}.")
    empty = len(counts.get("empty_files", ()))
    if empty:
        notes.append(f"{plural(empty, 'file')} held no document.")
    return [Table((Column("File", numeric=False), Column("Size")), rows, note=" ".join(notes))]
