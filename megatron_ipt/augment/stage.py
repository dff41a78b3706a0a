"""Stage ``augment``: formats chains of texts and pairs as documents, shard by shard.

Every input shard gives one shard in ``augmented/``, with documents that have pairs, and one in ``plain/``, with all
others. While writing, the stage checks that every text and every pair is in exactly one document.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from megatron_ipt.augment.config import AugmentConfig
from megatron_ipt.augment.patterns import ANSWER, QUESTION, TEXT
from megatron_ipt.augment.render import Rendered, render
from megatron_ipt.augment.samples import SAMPLES, Candidates, Samples
from megatron_ipt.augment.templates import BUILT_IN, Templates, load_templates, template_files
from megatron_ipt.errors import StageError
from megatron_ipt.files import atomic_jsonl, list_shards, read_jsonl, remove_leftovers, shard_name, write_json
from megatron_ipt.manifest import ShardMarkers, StageContext, fingerprint_file
from megatron_ipt.parallel import map_shards, share_of
from megatron_ipt.progress import Progress
from megatron_ipt.stages import CHAINS, Units
from megatron_ipt.synthesis.pairs import Chain

AUGMENTED, PLAIN = "augmented", "plain"
"""Folders, and the ``source`` of their documents."""
_BY_NAME = ("layouts", "categories")
_OTHER_CATEGORY = "other"


def fingerprints(config: AugmentConfig) -> list[dict[str, Any]]:
    """Fingerprints of custom template files, for the manifest.

    Raises:
        InputError: a file cannot be read.
    """
    return [fingerprint_file(path) for path in template_files(config) if path != BUILT_IN]


def units(config: AugmentConfig, context: StageContext) -> Units:
    """The shards of the stage: one per input shard."""
    return Units(tuple(path.name for path in list_shards(context.inputs[CHAINS])))


def run(config: AugmentConfig, context: StageContext, shard: tuple[int, int] | None = None) -> dict[str, Any]:
    """Renders all chains, or those in share ``shard`` (i, N); returns the counts.

    Raises:
        RecipeError: the templates are not valid.
        StageError: a text or pair would be lost or duplicated.
    """
    templates = load_templates(config)
    shards = share_of(list_shards(context.inputs[CHAINS]), shard)
    total: Counter[str] = Counter()
    by_name: dict[str, Counter[str]] = {name: Counter() for name in _BY_NAME}
    samples = Samples()
    arguments = (templates, context.seed, context.directory, context.compression)
    with Progress("augment", len(shards), "shards") as bar:
        for path, counts in map_shards(augment_shard, shards, arguments, config.workers):
            samples.add(path, counts.pop("samples"))
            for name in _BY_NAME:
                by_name[name].update(counts.pop(name))
            total.update(counts)
            bar.advance(1, documents=f"{total['documents']:,}", pairs=f"{total['pairs_rendered']:,}")
    if shard is None:
        write_json(context.directory / SAMPLES, samples.render(templates, context.seed))
    counted = {name: total[name] for name in _TOTALS}
    return {**counted, **{name: _ordered(by_name[name]) for name in _BY_NAME}}


_TOTALS = (
    "documents", "augmented_documents", "plain_documents", "text_last_documents", "texts", "pairs", "pairs_rendered",
    "unmatched_options", "characters", "text_characters", "pair_characters", "frame_characters",
)  # fmt: skip


def augment_shard(shard: Path, templates: Templates, seed: int, directory: Path, compression: str) -> dict[str, Any]:
    """Writes the documents of one shard under ``augmented/`` and ``plain/``; returns its counts."""
    markers = ShardMarkers(directory)
    done = markers.counts(shard.name)
    if done is not None:
        return done
    counts: Counter[str] = Counter()
    layouts: Counter[str] = Counter()
    categories: Counter[str] = Counter()
    candidates = Candidates()
    name = shard_name(int(shard.name.split(".")[0].removeprefix("shard-")), compression)
    for source in (AUGMENTED, PLAIN):
        remove_leftovers(directory / source, name)
    with ExitStack() as stack:
        writers = {
            source: stack.enter_context(atomic_jsonl(directory / source / name)) for source in (AUGMENTED, PLAIN)
        }
        for position, record in enumerate(read_jsonl(shard)):
            chain = Chain.from_json(record)
            rendered = render(chain, templates, seed)
            _check(chain, rendered, shard, position + 1)
            source = AUGMENTED if rendered.pairs else PLAIN
            writers[source].write(
                {
                    "id": chain.id,
                    "text": rendered.text,
                    "split": chain.split,
                    **({"domain": chain.domain} if chain.domain else {}),
                    "source": source,
                    "layout": rendered.layout,
                    "pairs": rendered.pairs,
                    "texts": rendered.texts,
                }
            )
            counts[f"{source}_documents"] += 1
            layouts[rendered.layout] += 1
            for example in chain.examples:
                counts["pairs"] += len(example.pairs)
                categories.update(pair.category or _OTHER_CATEGORY for pair in example.pairs)
            _count(rendered, counts)
            if rendered.pairs:
                candidates.add(chain.id, position, rendered, seed)
    result = {**counts, "layouts": dict(layouts), "categories": dict(categories), "samples": candidates.to_json()}
    markers.finish(shard.name, result)
    return result


def _check(chain: Chain, rendered: Rendered, shard: Path, line: int) -> None:
    texts, pairs = len(chain.examples), sum(len(example.pairs) for example in chain.examples)
    if (rendered.texts, rendered.pairs) != (texts, pairs):
        raise StageError(
            f"{shard}:{line}: chain {chain.id} has {texts} texts and {pairs} pairs, but {rendered.texts} and "
            f"{rendered.pairs} were written; this is a bug in the renderer, please report it with this chain"
        )


def _count(rendered: Rendered, counts: Counter[str]) -> None:
    counts["documents"] += 1
    counts["texts"] += rendered.texts
    counts["pairs_rendered"] += rendered.pairs
    counts["text_last_documents"] += rendered.text_last
    counts["unmatched_options"] += rendered.unmatched_options
    text = pairs = 0
    for kind, part in zip(rendered.kinds, rendered.parts):
        if kind == TEXT:
            text += len(part)
        elif kind in (QUESTION, ANSWER):
            pairs += len(part)
    counts["characters"] += len(rendered.text)
    counts["text_characters"] += text
    counts["pair_characters"] += pairs
    counts["frame_characters"] += len(rendered.text) - text - pairs


def _ordered(counter: Counter[str]) -> dict[str, int]:
    """Most frequent first, ties by name, independent of the order in which shards finished."""
    return dict(sorted(counter.items(), key=lambda item: (-item[1], item[0])))
