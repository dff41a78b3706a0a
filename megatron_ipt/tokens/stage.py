"""Stage ``tokens``: converts documents of all sources to Megatron indexed datasets, and saves the tokenizer.

Shards are encoded in parallel into parts, and the parts of a split are then interleaved by token share. Training data
is mixed; validation and test data are kept separate by source, so that each source has its own loss. ``dataset.json``
describes the datasets; training reads nothing else.

``run(config, context, shard=(i, N))`` encodes every N-th part starting with the i-th, concurrently with other processes
on any machine that sees the folder; a final ``run(config, context)`` encodes any remaining parts and mixes them.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from itertools import count, islice
from pathlib import Path
from typing import Any

from megatron_ipt.corpus.documents import SPLITS, Document, DomainCounts, split_of
from megatron_ipt.corpus.options import ReadOptions
from megatron_ipt.corpus.readers import custom_reader
from megatron_ipt.corpus.reading import input_files, input_fingerprints, open_rejects, read_documents
from megatron_ipt.errors import InputError
from megatron_ipt.files import (
    atomic_folder,
    atomic_jsonl,
    list_shards,
    read_jsonl,
    remove_leftovers,
    shard_name,
    write_json,
)
from megatron_ipt.locks import locked
from megatron_ipt.manifest import StageContext, fingerprint_file
from megatron_ipt.parallel import map_shards, share_of
from megatron_ipt.progress import Progress
from megatron_ipt.seeding import derive
from megatron_ipt.stages import AUGMENTED, DOCUMENTS, Units
from megatron_ipt.tokens.config import SourceConfig, TokenizerConfig, TokensConfig
from megatron_ipt.tokens.dataset.description import DATASET, tokenizer_keys
from megatron_ipt.tokens.dataset.indexed import dtype_for
from megatron_ipt.tokens.dataset.mix import TokenizedSource, write_interleaved, write_single
from megatron_ipt.tokens.dataset.verify import checksums
from megatron_ipt.tokens.encode import Encoding, Frame, Part, encode_part
from megatron_ipt.tokens.tokenizer.hugging_face_folder import HuggingFaceTokenizer
from megatron_ipt.tokens.tokenizer.interface import Tokenizer
from megatron_ipt.tokens.tokenizer.loading import choose_encoder, open_tokenizer
from megatron_ipt.tokens.tokenizer.sentencepiece_model import SentencePieceTokenizer, train_sentencepiece
from megatron_ipt.tokens.tokenizer.transformers_files import TOKENIZER_FILES

logger = logging.getLogger(__name__)

_LINE_CHARACTERS = 10_000
_SHARD_DOCUMENTS = 20_000
"""Documents per shard of a source that is read from files."""


def built_in_folders(inputs: Mapping[str, Path]) -> dict[str, list[Path]]:
    """Folders of shards behind the sources ``augmented`` and ``raw``, as far as the recipe makes them.

    Args:
        inputs: folders of earlier stages by kind.
    """
    folders: dict[str, list[Path]] = {"augmented": [], "raw": []}
    if DOCUMENTS in inputs:
        folders["raw"].append(inputs[DOCUMENTS] / "raw")
    if AUGMENTED in inputs:
        folders["augmented"].append(inputs[AUGMENTED] / "augmented")
        folders["raw"].append(inputs[AUGMENTED] / "plain")
    elif DOCUMENTS in inputs:
        # Nothing makes pairs for them: documents meant for pairs are trained on as they are.
        folders["raw"].append(inputs[DOCUMENTS] / "synthesis")
    return folders


def units(config: TokensConfig, context: StageContext) -> Units:
    """The parts that are encoded apart. A source of the user's own files counts as one while it is not read yet."""
    folders = built_in_folders(context.inputs)
    names = []
    for source, settings in config.sources.items():
        count = sum(len(list_shards(folder)) for folder in folders.get(source, [])) + bool(settings.inputs)
        names += [f"{source}-{index:05d}" for index in range(count)]
    return Units(tuple(names), "parts")


def fingerprints(config: TokensConfig) -> list[dict[str, Any]]:
    """Fingerprints of what the recipe names itself: a given tokenizer and the files of further sources."""
    prints = tokenizer_fingerprints(config.tokenizer)
    for name, source in config.sources.items():
        if source.inputs:
            prints += input_fingerprints(source.inputs, _options(name, source))
    return prints


def check(config: TokensConfig) -> None:
    """Raises what would otherwise be found when all pairs are made.

    Raises:
        InputError: the tokenizer that the recipe gives or a file of a source is missing, or cannot be used.
        RecipeError: the custom reader of a source cannot be used.
    """
    _given_tokenizer(config.tokenizer)
    for name, source in config.sources.items():
        if source.inputs:
            input_files(source.inputs, _options(name, source))
            custom_reader(_options(name, source))


def _options(name: str, source: SourceConfig) -> ReadOptions:
    return source.options(f"tokens.sources.{name}")


def tokenizer_fingerprints(settings: TokenizerConfig) -> list[dict[str, Any]]:
    """Fingerprints of the files of a given tokenizer; empty for one that is trained."""
    path = Path(settings.path)
    files = []
    if settings.kind == "sentencepiece":
        files.append(path)
    elif settings.kind == "huggingface":
        files += [path / name for name in TOKENIZER_FILES if (path / name).is_file()]
    return [fingerprint_file(file) for file in files]


def run(config: TokensConfig, context: StageContext, shard: tuple[int, int] | None = None) -> dict[str, Any]:
    """Encodes, mixes and describes; returns the counts.

    Args:
        shard: (i, N) encodes this share of the parts only, and mixes nothing.

    Raises:
        InputError: no documents, an unusable tokenizer, or shares that cannot be met.
    """
    work = context.directory / "parts"
    work.mkdir(parents=True, exist_ok=True)
    if shard is None:
        remove_leftovers(work)
    with locked(work / "prepare.lock", work, wait=True):
        parts = _collect_parts(config, context, work)
        if not parts:
            raise InputError("tokens: the sources hold no documents")
        tokenizer_folder = context.directory / "tokenizer"
        if not tokenizer_folder.exists():
            lines = _training_lines(parts, context.seed, config.tokenizer.training_characters)
            prepare_tokenizer(config.tokenizer, lines, tokenizer_folder)
    tokenizer = open_tokenizer(tokenizer_folder)
    encoding = Encoding(
        tokenizer_folder,
        choose_encoder(config.tokenizer.engine, tokenizer_folder),
        _frame(config, tokenizer),
        dtype_for(config.dtype, tokenizer.vocab_size, "tokens.dtype").name,
        keep_empty=False,
    )
    encoded = _encode_all(config, share_of(parts, shard), encoding)
    if shard is not None:
        return {"parts": len(encoded)}
    dataset: dict[str, Any] = {
        **tokenizer_keys(tokenizer_folder, tokenizer, encoding.dtype),
        "engine": encoding.engine,
        "train": _write_train(config, context, parts, encoded, encoding.dtype),
        **{split: _write_held_out(split, config, context, parts, encoded, encoding.dtype) for split in SPLITS[1:]},
    }
    for split in SPLITS:
        for entry in dataset[split]:
            entry["files"] = checksums(context.directory / entry["prefix"])
    write_json(context.directory / DATASET, dataset)
    shutil.rmtree(work)
    return {
        "vocab_size": tokenizer.vocab_size,
        **{
            split: {
                "documents": sum(entry["documents"] for entry in dataset[split]),
                "tokens": sum(entry["tokens"] for entry in dataset[split]),
            }
            for split in SPLITS
        },
        "train_by_source": _by_source(dataset["train"]),
        **_by_domain(parts, encoded),
        "empty_documents": sum(split["empty"] for counts in encoded.values() for split in counts.values()),
        "rejected": _rejected(context.directory),
    }


def _frame(config: TokensConfig, tokenizer: Tokenizer) -> Frame:
    if config.prepend_bos and tokenizer.bos_id is None:
        raise InputError("tokens.prepend_bos: the tokenizer has no BOS token; set it to false")
    return Frame(
        document_head=(tokenizer.bos_id,) if config.prepend_bos and tokenizer.bos_id is not None else (),
        document_tail=(tokenizer.eod_id,) if config.append_eod else (),
    )


def _collect_parts(config: TokensConfig, context: StageContext, work: Path) -> list[Part]:
    parts = []
    for name, source in config.sources.items():
        folders = built_in_folders(context.inputs).get(name, [])
        shards = [shard for folder in folders for shard in list_shards(folder)]
        if source.inputs:
            shards += _import_source(name, source, context)
        parts += [Part(name, index, shard, work) for index, shard in enumerate(shards)]
        if not shards:
            logger.warning("tokens: source %s contains no documents", name)
    return parts


def _import_source(name: str, source: SourceConfig, context: StageContext) -> list[Path]:
    """Reads the files of a source into shards of documents with ids and splits."""
    folder = context.directory / "parts" / f"{name}-import"
    if not folder.exists():
        options = _options(name, source)
        rejects_path = context.directory / f"rejects-{name}.jsonl"
        with open_rejects(rejects_path, options) as rejects, atomic_folder(folder) as temporary:
            documents = read_documents(source.inputs, options, rejects)
            for index in count():
                shard = list(islice(documents, _SHARD_DOCUMENTS))
                if not shard:
                    break
                with atomic_jsonl(temporary / shard_name(index, context.compression)) as writer:
                    for document in shard:
                        document.split = split_of(document.id, context.seed, *source.held_out_shares())
                        writer.write(document.to_json())
    return list_shards(folder)


def prepare_tokenizer(settings: TokenizerConfig, lines: Iterator[str], folder: Path) -> None:
    """Saves the tokenizer that ``settings`` ask for in ``folder``.

    Args:
        lines: to train on; read for that alone.
    """
    tokenizer = _given_tokenizer(settings)
    if tokenizer is None:
        tokenizer = train_sentencepiece(lines, settings.vocab_size)
        if tokenizer.vocab_size < settings.vocab_size:
            logger.warning(
                "tokens.tokenizer.vocab_size: %d pieces requested, but the corpus yields only %d",
                settings.vocab_size,
                tokenizer.vocab_size,
            )
    with atomic_folder(folder) as temporary:
        tokenizer.save(temporary)


def _given_tokenizer(settings: TokenizerConfig) -> Tokenizer | None:
    if settings.kind == "huggingface":
        return HuggingFaceTokenizer(settings.path, settings.eod_token, settings.bos_token)
    if settings.kind == "sentencepiece":
        return SentencePieceTokenizer.read(settings.path)
    return None


def _training_lines(parts: list[Part], seed: int, characters: int) -> Iterator[str]:
    """Lines of training documents, shards in hash order, up to about ``characters``."""
    for part in sorted(parts, key=lambda part: derive(seed, "tokenizer", part.name)):
        for record in read_jsonl(part.path):
            document = Document.from_json(record)
            if document.split != "train":
                continue
            for line in filter(None, document.text.split("\n")):
                # SentencePiece skips lines beyond its limit.
                yield from (line[i : i + _LINE_CHARACTERS] for i in range(0, len(line), _LINE_CHARACTERS))
            characters -= len(document.text)
            if characters <= 0:
                return


def _encode_all(config: TokensConfig, parts: list[Part], encoding: Encoding) -> dict[str, dict[str, Any]]:
    """Counts of every part by name, encoding what is not yet done."""
    encoded = {}
    with Progress("tokens", len(parts), "shards") as bar:
        total = 0
        for part, counts in map_shards(encode_part, parts, (encoding,), config.workers):
            encoded[part.name] = counts
            total += sum(count["tokens"] for count in counts.values())
            bar.advance(1, tokens=f"{total:,}")
    return encoded


def _sources(
    split: str, config: TokensConfig, parts: list[Part], encoded: dict[str, dict[str, Any]]
) -> list[TokenizedSource]:
    return [
        TokenizedSource(
            name,
            [part.prefix(split) for part in parts if part.source == name and split in encoded[part.name]],
            settings.repeat if split == "train" else 1,
        )
        for name, settings in config.sources.items()
    ]


def _write_train(
    config: TokensConfig, context: StageContext, parts: list[Part], encoded: dict[str, dict[str, Any]], dtype: str
) -> list[dict[str, Any]]:
    sources = _sources("train", config, parts, encoded)
    settings = [config.sources[source.name] for source in sources]
    shares = [setting.share for setting in settings if setting.share is not None]
    for source, setting in zip(sources, settings):
        if setting.share and not source.tokens:
            raise InputError(f"tokens.sources.{source.name}.share: {setting.share}, but the source holds no tokens")
    if config.mix == "interleave":
        counts = write_interleaved(context.directory / "train", sources, dtype, shares or None)
        return [{"name": "mixed", "prefix": "train", "weight": 1.0, **counts}]
    entries = []
    total = sum(source.tokens for source in sources)
    for source, setting in zip(sources, settings):
        if source.tokens:
            prefix = f"train-{source.name}"
            counts = write_single(context.directory / prefix, source, dtype)
            weight = setting.share if setting.share is not None else counts["tokens"] / total
            entries.append({"name": source.name, "prefix": prefix, "weight": weight, **counts})
    return entries


def _write_held_out(
    split: str,
    config: TokensConfig,
    context: StageContext,
    parts: list[Part],
    encoded: dict[str, dict[str, Any]],
    dtype: str,
) -> list[dict[str, Any]]:
    entries = []
    for source in _sources(split, config, parts, encoded):
        if source.tokens:
            prefix = f"{split}-{source.name}"
            entries.append(
                {"name": source.name, "prefix": prefix} | write_single(context.directory / prefix, source, dtype)
            )
    return entries


def _by_source(entries: list[dict[str, Any]]) -> dict[str, Any]:
    if len(entries) == 1 and "by_source" in entries[0]:
        return dict(entries[0]["by_source"])
    return {entry["name"]: {"documents": entry["documents"], "tokens": entry["tokens"]} for entry in entries}


def _by_domain(parts: list[Part], encoded: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """``{domains: {source: {domain: {documents, characters}}}}`` of all splits, where documents have a domain."""
    domains: dict[str, DomainCounts] = {}
    for part in parts:
        for counts in encoded[part.name].values():
            domains.setdefault(part.source, DomainCounts()).update(counts.get("domains", {}))
    found = {source: counts.to_json() for source, counts in domains.items() if counts.summary()}
    return {"domains": found} if found else {}


def _rejected(directory: Path) -> dict[str, int]:
    return {
        path.stem.removeprefix("rejects-"): sum(1 for _ in read_jsonl(path))
        for path in sorted(directory.glob("rejects-*.jsonl"))
    }
