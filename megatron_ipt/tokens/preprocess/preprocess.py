"""Files of texts to ``PREFIX_KEY_document.bin`` and ``.idx``, as Megatron-LM's preprocess_data.py does it.

The input is divided into pieces, each encoded by one process into a part under ``PREFIX.parts/``; the parts are then
joined in input order, or interleaved if there are several sources. Each part has a marker with the identity of its
piece and of the settings, so a rerun repeats only what is missing or was made with other settings, and any number of
processes can share the work. The parts folder is deleted when the outputs are complete.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import orjson
import xxhash

from megatron_ipt.corpus.documents import split_of
from megatron_ipt.errors import InputError, RecipeError, StageError
from megatron_ipt.files import atomic_folder, atomic_open, read_jsonl, remove_leftovers, write_json
from megatron_ipt.locks import locked
from megatron_ipt.manifest import ShardMarkers, fingerprint_file
from megatron_ipt.parallel import map_shards, share_of
from megatron_ipt.progress import Progress
from megatron_ipt.rejects import Rejects
from megatron_ipt.tokens.dataset.indexed import bin_path, dtype_for, idx_path
from megatron_ipt.tokens.dataset.mix import TokenizedSource, write_interleaved, write_single
from megatron_ipt.tokens.dataset.verify import checksums
from megatron_ipt.tokens.encode import Encoding, Frame, Item, encode_items
from megatron_ipt.tokens.preprocess.megatron_types import Conventions, conventions, save
from megatron_ipt.tokens.preprocess.pieces import Piece, PieceReader, cut, input_files
from megatron_ipt.tokens.tokenizer.loading import choose_encoder

logger = logging.getLogger(__name__)

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class SourceFiles:
    """Inputs of one source; ``share`` of the tokens, None to keep everything."""

    name: str
    inputs: tuple[str, ...]
    share: float | None = None
    repeat: int = 1


@dataclass(frozen=True)
class Options:
    """What to do; names follow Megatron-LM's flags where the meaning is the same.

    Attributes:
        sources: one is written in input order, several are interleaved.
        output_prefix: outputs are ``PREFIX_KEY_document``, or ``PREFIX_SPLIT_KEY_document`` with a split.
        json_keys: keys of the texts; each gives a dataset. Of a list of texts under a key, each is a sequence.
        tokenizer_type, tokenizer_model, legacy_tokenizer, template: see :func:`megatron_types.conventions`.
        vocab_size: maximum number of ids the tokenizer may have.
        append_eod, prepend_bos: whether to add these ids after and before every document that has ids.
        partitions: order of lines that Megatron-LM's partitions produce: every N-th line from the first, then from the
            second, ...; ``keep_sequential_samples`` keeps the order of the input.
        split: shares of train, valid and test, by hash of the document's id (or text if it has none).
        dtype: auto, uint16 or int32.
        engine: see ``tokens.tokenizer.engine``.
        maximum_reject_share: maximum share of all records that may be rejected.
        workers: number of processes.
        log_interval: number of documents between two log lines.
        piece_bytes: bytes of input per part; None derives it from the size of the corpus.
    """

    sources: tuple[SourceFiles, ...]
    output_prefix: str
    tokenizer_type: str
    tokenizer_model: str
    json_keys: tuple[str, ...] = ("text",)
    vocab_size: int | None = None
    append_eod: bool = False
    prepend_bos: bool = False
    legacy_tokenizer: bool = False
    template: bool = True
    partitions: int = 1
    keep_sequential_samples: bool = False
    split: tuple[float, ...] = ()
    seed: int = 1234
    dtype: str = "auto"
    engine: str = "auto"
    maximum_reject_share: float = 0.05
    workers: int = 1
    log_interval: int = 1000
    piece_bytes: int | None = None

    @property
    def residues(self) -> int:
        return 1 if self.keep_sequential_samples else self.partitions


@dataclass(frozen=True)
class _Job:
    """One piece to encode and where to.

    Attributes:
        name: name of the part.
        source: number of its source.
        identity: identity of piece and settings; a marker with another one is ignored.
    """

    name: str
    source: int
    piece: Piece
    directory: Path
    identity: str


@dataclass(frozen=True)
class _Recipe:
    """What the processes that encode need to know."""

    encoding: Encoding
    json_keys: tuple[str, ...]
    residues: int
    split: tuple[float, ...]
    seed: int


def run(options: Options, shard: tuple[int, int] | None = None, overwrite: bool = False) -> dict[str, Any]:
    """Does everything, or only the share ``shard`` = (i, N) of the encoding, while other processes do theirs.

    Returns:
        ``{outputs: {prefix: {documents, tokens, ...}}, documents, tokens, rejected, engine}``; with ``shard`` only
        ``{parts}``.

    Raises:
        RecipeError: the options contradict each other.
        InputError: an input or the tokenizer cannot be used, or too many records are rejected.
        StageError: an output exists already, or another process is writing it.
    """
    _check(options)
    prefix = Path(options.output_prefix)
    work = prefix.with_name(f"{prefix.name}.parts")
    if not overwrite:
        _refuse_existing(options, work)
    with locked(prefix.with_name(f".{prefix.name}.lock"), str(prefix), shared=shard is not None):
        if shard is None:
            remove_leftovers(work)
            remove_leftovers(prefix.parent, f"{prefix.name}_")
        work.mkdir(parents=True, exist_ok=True)
        convention = conventions(
            options.tokenizer_type, options.tokenizer_model, options.legacy_tokenizer, options.template
        )
        encoding = _encoding(options, convention, work)
        jobs = _plan(options, encoding, work)
        recipe = _Recipe(encoding, options.json_keys, options.residues, options.split, options.seed)
        done = _encode_all(options, share_of(jobs, shard), recipe)
        if shard is not None:
            return {"parts": len(done)}
        rejected = _collect_rejects(options, jobs, done)
        outputs = {}
        for key_number, key in enumerate(options.json_keys):
            for split in SPLITS if options.split else ("",):
                target = _target(options, key, split)
                counts = _join(options, jobs, done, key_number, split, target, encoding.dtype)
                outputs[str(target)] = _describe(options, convention, encoding, target, counts)
        shutil.rmtree(work)
    return {
        "outputs": outputs,
        "documents": sum(entry["documents"] for entry in outputs.values()),
        "tokens": sum(entry["tokens"] for entry in outputs.values()),
        "rejected": rejected,
        "engine": encoding.engine,
    }


def _check(options: Options) -> None:
    shares = [source.share for source in options.sources]
    if any(share is not None for share in shares):
        if any(share is None for share in shares):
            raise RecipeError("--source: give a share to every source or to none")
        total = sum(share for share in shares if share is not None)
        if abs(total - 1) > 1e-6:
            raise RecipeError(f"--source: the shares add up to {total:g}, not 1")
    if options.split and (len(options.split) != 3 or abs(sum(options.split) - 1) > 1e-6):
        raise RecipeError(f"--split-by-hash: expected three shares that add up to 1, found {options.split}")
    for name in ("workers", "partitions", "log_interval"):
        if getattr(options, name) < 1:
            raise RecipeError(f"--{name.replace('_', '-')} {getattr(options, name)}: expected at least 1")


def _target(options: Options, key: str, split: str) -> Path:
    return Path(
        f"{options.output_prefix}_{split}_{key}_document" if split else f"{options.output_prefix}_{key}_document"
    )


def _refuse_existing(options: Options, work: Path) -> None:
    """Outputs next to a parts folder are those of a run that was interrupted while joining its parts."""
    if work.exists():
        return
    for key in options.json_keys:
        for split in SPLITS if options.split else ("",):
            for path in (bin_path(_target(options, key, split)), idx_path(_target(options, key, split))):
                if path.exists():
                    raise StageError(
                        f"{path}: exists already; choose another --output-prefix, or use --overwrite to replace it"
                    )


def _encoding(options: Options, convention: Conventions, work: Path) -> Encoding:
    tokenizer = convention.tokenizer
    if options.vocab_size is not None and convention.vocab_size > options.vocab_size:
        raise InputError(
            f"--vocab-size {options.vocab_size}: the tokenizer {options.tokenizer_model} has ids up to "
            f"{convention.vocab_size - 1}"
        )
    if options.prepend_bos and tokenizer.bos_id is None:
        raise InputError("--prepend-bos: the tokenizer has no BOS token")
    dtype = dtype_for(options.dtype, convention.vocab_size, "--dtype")
    folder = work / f"tokenizer-{_tokenizer_digest(options.tokenizer_model)}"
    with locked(work / "prepare.lock", work, wait=True):
        if not folder.exists():
            with atomic_folder(folder) as temporary:
                save(tokenizer, temporary)
    has_bos = convention.text_head[:1] == (tokenizer.bos_id,)
    frame = Frame(
        convention.text_head,
        convention.text_tail,
        (tokenizer.bos_id,) if options.prepend_bos and tokenizer.bos_id is not None and not has_bos else (),
        (convention.eod_id,) if options.append_eod else (),
    )
    return Encoding(folder, choose_encoder(options.engine, folder), frame, dtype.name)


def _is_own(path: str, options: Options, work: Path) -> bool:
    """Whether an input that was found in a folder or by a pattern was written there by this tool."""
    resolved = Path(path).resolve()
    written = Path(f"{options.output_prefix}_").resolve()
    return work.resolve() in resolved.parents or (
        resolved.parent == written.parent
        and resolved.name.startswith(written.name)
        and resolved.name.endswith(("_document.json", "_rejects.jsonl"))
    )


def _tokenizer_digest(model: str) -> str:
    path = Path(model)
    files = sorted(
        path.parent.glob("*.json") if path.suffix == ".json" else path.glob("*") if path.is_dir() else [path]
    )
    prints = [fingerprint_file(file)["xxh128"] for file in files if file.is_file()]
    return hashlib.blake2b("".join(prints).encode(), digest_size=8).hexdigest()


def _plan(options: Options, encoding: Encoding, work: Path) -> list[_Job]:
    settings = {
        name: value
        for name, value in asdict(options).items()
        if name in ("json_keys", "legacy_tokenizer", "template", "split", "seed")
    }
    settings |= {"frame": asdict(encoding.frame), "dtype": encoding.dtype, "residues": options.residues}
    settings["tokenizer"] = encoding.tokenizer.name
    jobs = []
    for number, source in enumerate(options.sources):
        files = [file for file in input_files(list(source.inputs)) if not _is_own(file.path, options, work)]
        prints = {file.path: fingerprint_file(file.path) for file in files}
        for index, piece in enumerate(cut(files, options.piece_bytes)):
            identity = orjson.dumps([settings, asdict(piece), prints[piece.path]], option=orjson.OPT_SORT_KEYS)
            digest = hashlib.blake2b(identity, digest_size=16).hexdigest()
            jobs.append(_Job(f"{number:03d}-{index:06d}", number, piece, work, digest))
    if not jobs:
        raise InputError(f"input: no documents in {', '.join(options.sources[0].inputs)}: every file is empty")
    return jobs


def _encode_all(options: Options, jobs: list[_Job], recipe: _Recipe) -> dict[str, dict[str, Any]]:
    done = {}
    documents = tokens = logged = 0
    with Progress("tokens", len(jobs), "parts") as bar:
        for job, result in map_shards(_encode_job, jobs, (recipe,), options.workers):
            done[job.name] = result
            documents += sum(counts["documents"] for counts in result["outputs"].values())
            tokens += sum(counts["tokens"] for counts in result["outputs"].values())
            bar.advance(1, documents=f"{documents:,}", tokens=f"{tokens:,}")
            if documents - logged >= options.log_interval:
                logged = documents
                logger.info("tokens: %s documents, %s tokens", f"{documents:,}", f"{tokens:,}")
    return done


def _encode_job(job: _Job, recipe: _Recipe) -> dict[str, Any]:
    """Encodes one piece unless its marker says it is done; returns ``{identity, seen, outputs, rejected}``."""
    markers = ShardMarkers(job.directory)
    done = markers.counts(job.name)
    if done is not None and done.get("identity") == job.identity:
        return done
    with Rejects(_rejects_path(job)) as rejects:
        reader = PieceReader(job.piece, list(recipe.json_keys), rejects)
        outputs = encode_items(_items(reader, recipe), partial(_part_prefix, job), recipe.encoding)
    result = {
        "identity": job.identity,
        "seen": reader.seen,
        "outputs": outputs,
        "rejected": dict(rejects.reasons),
    }
    markers.finish(job.name, result)
    return result


def _items(reader: PieceReader, recipe: _Recipe) -> Iterator[Item]:
    keys = [(key, f"{number}") for number, key in enumerate(recipe.json_keys)]
    plain = recipe.residues == 1 and not recipe.split
    for number, record in reader:
        suffix = "" if plain else f"-{_split_of(record, recipe)}-{number % recipe.residues}"
        for key, output in keys:
            value = record[key]
            yield Item(output + suffix, value if isinstance(value, list) else [value])


def _split_of(record: dict[str, Any], recipe: _Recipe) -> str:
    if not recipe.split:
        return ""
    identifier = record.get("id")
    if not isinstance(identifier, (str, int)) or identifier == "":
        identifier = xxhash.xxh3_128_hexdigest(orjson.dumps(record[recipe.json_keys[0]]))
    _, valid, test = recipe.split
    return split_of(str(identifier), recipe.seed, valid, test)


def _part_prefix(job: _Job, output: str) -> Path:
    return job.directory / f"{job.name}-{output}"


def _rejects_path(job: _Job) -> Path:
    return job.directory / f"{job.name}-rejects.jsonl"


def _collect_rejects(options: Options, jobs: list[_Job], done: dict[str, dict[str, Any]]) -> dict[str, int]:
    """Joins the rejects of all parts, with lines counted from the start of their file, and enforces the limit."""
    reasons: Counter[str] = Counter()
    for result in done.values():
        reasons.update(result["rejected"])
    path = Path(f"{options.output_prefix}_rejects.jsonl")
    path.unlink(missing_ok=True)
    if not reasons:
        return {}
    with atomic_open(path) as stream:
        for _, of_file in groupby(jobs, key=lambda job: (job.source, job.piece.path)):
            before = 0
            for job in of_file:
                if done[job.name]["rejected"]:
                    for record in read_jsonl(_rejects_path(job)):
                        if record["line"] is not None:
                            record["line"] += before
                        stream.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
                before += done[job.name]["seen"]
    rejected = sum(reasons.values())
    keys = len(options.json_keys)
    accepted = sum(c["documents"] for result in done.values() for c in result["outputs"].values()) // keys
    if rejected > options.maximum_reject_share * (accepted + rejected):
        common = ", ".join(f"{reason}: {count}" for reason, count in reasons.most_common(3))
        raise InputError(
            f"{rejected} of {accepted + rejected} records were rejected ({common}), more than the limit of "
            f"{options.maximum_reject_share:.1%}. Look at {path}, then fix the input or raise --maximum-reject-share."
        )
    return dict(reasons)


def _join(
    options: Options,
    jobs: list[_Job],
    done: dict[str, dict[str, Any]],
    key_number: int,
    split: str,
    target: Path,
    dtype: str,
) -> dict[str, Any]:
    """Writes one output from its parts."""
    sources = []
    for number, files in enumerate(options.sources):
        mine = [job for job in jobs if job.source == number]
        prefixes = _ordered_prefixes(mine, done, key_number, split, options)
        sources.append(TokenizedSource(files.name, prefixes, files.repeat if split in ("", "train") else 1))
    # Never leave an old index next to new tokens.
    idx_path(target).unlink(missing_ok=True)
    if len(sources) == 1:
        return write_single(target, sources[0], dtype)
    shares = [source.share for source in options.sources if source.share is not None]
    for source, files in zip(sources, options.sources):
        if files.share and not source.tokens and split in ("", "train"):
            raise InputError(f"--source {files.name}: share {files.share:g}, but it has no tokens")
    return write_interleaved(target, sources, dtype, shares if shares and split in ("", "train") else None)


def _ordered_prefixes(
    jobs: list[_Job], done: dict[str, dict[str, Any]], key_number: int, split: str, options: Options
) -> list[Path]:
    if options.residues == 1 and not options.split:
        return [_part_prefix(job, f"{key_number}") for job in jobs if f"{key_number}" in done[job.name]["outputs"]]
    prefixes = []
    for residue in range(options.residues):
        before = 0
        for job in jobs:
            output = f"{key_number}-{split}-{(residue - before) % options.residues}"
            if output in done[job.name]["outputs"]:
                prefixes.append(_part_prefix(job, output))
            before += done[job.name]["seen"]
    return prefixes


def _describe(
    options: Options, convention: Conventions, encoding: Encoding, target: Path, counts: dict[str, Any]
) -> dict[str, Any]:
    """Writes ``PREFIX_KEY_document.json`` next to a dataset, for ``inspect`` and ``verify``; returns it."""
    model = Path(options.tokenizer_model)
    description = {
        **counts,
        "dtype": encoding.dtype,
        "vocab_size": convention.vocab_size,
        "bos_id": convention.tokenizer.bos_id,
        "eod_id": convention.eod_id,
        "pad_id": convention.tokenizer.pad_id,
        "tokenizer": str(model.resolve()),
        "tokenizer_type": options.tokenizer_type,
        "engine": encoding.engine,
        "files": checksums(target),
    }
    write_json(Path(f"{target}.json"), description)
    return description
