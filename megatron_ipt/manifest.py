"""What a stage did: the record that lets a rerun skip, resume, or refuse.

A stage owns one folder. Files appear in it atomically; ``manifest.json`` says ``running`` while it works and
``complete`` at the end, with inputs, settings, counts, versions and seconds. A rerun with equal settings and inputs
skips a complete stage and continues an incomplete one; with different ones it stops and names the difference, because
output of two recipes must never mix. Finished shards leave a marker each, so that work lost to a crash is one shard.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import xxhash

from megatron_ipt import __version__
from megatron_ipt.errors import InputError, StageError, StorageError
from megatron_ipt.files import atomic_path, is_remote, read_json, remove_leftovers, write_json
from megatron_ipt.locks import locked

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_SAMPLED_BYTES = 1 << 20
_WHOLE_BYTES = 16 * _SAMPLED_BYTES
_VERSIONED = ("numpy", "torch", "megatron-core", "transformers", "tokenizers", "sentencepiece", "gigatoken",
    "transformer-engine",
)  # fmt: skip


@dataclass
class StageContext:
    """Everything a stage is told besides its own settings.

    Attributes:
        name: of the stage.
        directory: the folder it owns.
        seed: of the recipe; every random choice derives from it (see :mod:`megatron_ipt.seeding`).
        inputs: folders of the stages it reads, by stage name.
        compression: of JSON Lines shards: ``none``, ``gz`` or ``zst``.
        recipe_name: for titles and model cards.
    """

    name: str
    directory: Path
    seed: int
    inputs: Mapping[str, Path] = field(default_factory=dict)
    compression: str = "none"
    recipe_name: str = ""


def fingerprint_file(path: str | Path) -> dict[str, Any]:
    """``{path, bytes, xxh128}`` of an input file.

    Files up to 16 MiB are hashed whole; of larger ones the first, middle and last MiB, so that a corpus of terabytes
    is checked in seconds. Modification times are ignored: copies and clones stay equal.

    Raises:
        InputError: the file cannot be read.
    """
    if is_remote(path):
        import fsspec

        information = fsspec.open(str(path)).fs.info(str(path))
        tag = str(information.get("ETag") or information.get("mtime") or "")
        return {"path": str(path), "bytes": information.get("size"), "tag": tag}
    path = Path(path)
    digest = xxhash.xxh3_128()
    try:
        size = path.stat().st_size
        with open(path, "rb") as stream:
            if size <= _WHOLE_BYTES:
                digest.update(stream.read())
            else:
                for offset in (0, size // 2, size - _SAMPLED_BYTES):
                    stream.seek(offset)
                    digest.update(stream.read(_SAMPLED_BYTES))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    return {"path": str(path), "bytes": size, "xxh128": digest.hexdigest()}


def fingerprint_code(path: Path | None) -> list[dict[str, Any]]:
    """Fingerprint of a file of the user's own code, none without one.

    Where it alone differs, output is neither refused nor discarded unasked: a mended engine shall go on with what is
    finished.
    """
    return [] if path is None else [fingerprint_file(path) | {"code": True}]


def fingerprint_stage(directory: Path) -> dict[str, Any]:
    """The identity of a finished stage: what it was given and what it was told, not when it ran."""
    manifest = read_manifest(directory)
    if manifest is None or manifest["status"] != "complete":
        raise StageError(f"{directory}: this stage is not complete; run it first")
    identity = {name: manifest[name] for name in ("inputs", "settings", "counts")}
    digest = hashlib.blake2b(orjson.dumps(identity, option=orjson.OPT_SORT_KEYS), digest_size=16).hexdigest()
    return {"path": str(directory), "stage": manifest["stage"], "identity": digest}


def read_manifest(directory: Path) -> dict[str, Any] | None:
    """The manifest of ``directory``, or None where no stage has begun."""
    path = directory / MANIFEST
    return read_json(path) if path.exists() else None


def run_stage(
    context: StageContext,
    settings: dict[str, Any],
    inputs: Iterable[dict[str, Any]],
    work: Callable[[], dict[str, Any]],
    overwrite: bool = False,
    partial: bool = False,
) -> bool:
    """Runs ``work`` unless its complete output is there; returns whether it ran.

    Args:
        context: of the stage.
        settings: those that affect the output.
        inputs: fingerprints of what it reads.
        work: returns the counts for the manifest; may leave partial output that it can continue from.
        overwrite: discard output made with other settings or inputs instead of refusing.
        partial: this process does a share of the work beside others; the stage stays unfinished until a run of the
            whole finds all shares done.

    Raises:
        StageError: output of other settings or inputs is there, or another process is at work.
    """
    manifest = {
        "stage": context.name,
        "status": "running",
        # Through JSON, so that the comparison with an earlier manifest sees the same types.
        "settings": orjson.loads(orjson.dumps(settings)),
        "inputs": list(inputs),
        "versions": installed_versions(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    lock = context.directory.with_name(f".{context.name}.lock")
    with locked(lock, context.directory, shared=partial):
        if partial:
            return _work_beside_others(context, manifest, work)
        seconds_before = _prepare(context.directory, manifest, overwrite)
        if seconds_before is None:
            return False
        remove_leftovers(context.directory)
        _work(context.directory, manifest, work, seconds_before)
    return True


def _work_beside_others(context: StageContext, manifest: dict[str, Any], work: Callable[[], dict[str, Any]]) -> bool:
    beginning = context.directory.with_name(f".{context.name}.begin.lock")
    with locked(beginning, context.directory, wait=True):
        seconds_before = _prepare(context.directory, manifest, overwrite=False)
        if seconds_before is None:
            return False
        if read_manifest(context.directory) is None:
            write_json(context.directory / MANIFEST, manifest)
    work()
    return True


def _prepare(directory: Path, manifest: dict[str, Any], overwrite: bool) -> float | None:
    """Makes ``directory`` ready for work; seconds of earlier attempts, or None when nothing is left to do."""
    earlier = read_manifest(directory)
    if earlier is not None:
        differences, changed_code = _differences(earlier, manifest)
        if changed_code and not differences and not overwrite:
            logger.warning(
                "%s: %s; what was made before stays, --overwrite makes it anew", directory, ", ".join(changed_code)
            )
        if differences and not overwrite:
            raise StageError(
                f"{directory}: holds output of other settings or inputs:\n  "
                + "\n  ".join(differences)
                + "\nUse another output_dir, or --overwrite to discard the old output of this and all later stages."
            )
        if overwrite and (differences or changed_code):
            shutil.rmtree(directory)
            earlier = None
        elif earlier["status"] == "complete":
            return None
    directory.mkdir(parents=True, exist_ok=True)
    return float(earlier.get("seconds", 0.0)) if earlier is not None else 0.0


def _work(directory: Path, manifest: dict[str, Any], work: Callable[[], dict[str, Any]], seconds_before: float) -> None:
    write_json(directory / MANIFEST, manifest)
    start = time.monotonic()
    try:
        counts = work()
    except BaseException as error:
        manifest["status"] = "interrupted" if isinstance(error, (KeyboardInterrupt, SystemExit)) else "failed"
        manifest["error"] = f"{type(error).__name__}: {error}"
        manifest["seconds"] = seconds_before + time.monotonic() - start
        _write_quietly(directory / MANIFEST, manifest)
        raise
    manifest |= {"status": "complete", "counts": counts, "seconds": seconds_before + time.monotonic() - start}
    write_json(directory / MANIFEST, manifest)


class ShardMarkers:
    """Markers of finished shards: ``shard-00003.done.json`` beside its output, holding the shard's counts."""

    def __init__(self, directory: Path):
        self.directory = directory

    def counts(self, name: str) -> dict[str, Any] | None:
        """Counts of shard ``name``, or None while it is unfinished."""
        path = self._path(name)
        return read_json(path) if path.exists() else None

    def finish(self, name: str, counts: dict[str, Any]) -> None:
        """Call when every file of the shard is under its final name."""
        write_json(self._path(name), counts)

    def _path(self, name: str) -> Path:
        return self.directory / f"{name.split('.', 1)[0]}.done.json"


def _write_quietly(path: Path, manifest: dict[str, Any]) -> None:
    """Records a failure without hiding it: on a full disk the first error is the one to show."""
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(orjson.dumps(manifest, option=orjson.OPT_INDENT_2))
    except (OSError, StorageError):
        return


def _differences(earlier: dict[str, Any], now: dict[str, Any]) -> tuple[list[str], list[str]]:
    """What differs in settings and inputs, and in code of the user's own."""
    found: list[str] = []
    code: list[str] = []
    old, new = _flatten(earlier["settings"]), _flatten(now["settings"])
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            found.append(f"{now['stage']}.{name}: was {old.get(name)!r}, is {new.get(name)!r}")
    before = {entry["path"]: entry for entry in earlier["inputs"]}
    after = {entry["path"]: entry for entry in now["inputs"]}
    for path in sorted(before.keys() | after.keys()):
        differences = code if (after.get(path) or before[path]).get("code") else found
        if path not in after:
            differences.append(f"input {path}: no longer among the inputs")
        elif path not in before:
            differences.append(f"input {path}: new")
        elif before[path] != after[path]:
            differences.append(f"input {path}: changed")
    return found, code


def _flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            # An empty mapping is like an absent key.
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def installed_versions() -> dict[str, str]:
    """Versions of this package, of Python, and of the libraries that decide what comes out."""
    versions = {"megatron-ipt": __version__, "python": platform.python_version()}
    for package in _VERSIONED:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
