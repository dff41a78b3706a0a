"""Stage manifests: the record that decides whether a rerun skips, resumes or fails.

A stage owns one folder. Files appear in it atomically; ``manifest.json`` has the status ``running`` during the run and
``complete`` at the end, with inputs, settings, counts, versions and seconds. A rerun with equal settings and inputs
skips a complete stage and resumes an incomplete one; with different ones it fails and lists the differences, so that
output of two recipes is never mixed. Each finished shard leaves a marker, so a crash loses at most one shard.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import logging
import platform
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Mapping
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
USAGE = "usage"
"""Entry of a stage's counts: what making the output took, which is no part of what the output is."""
_SAMPLED_BYTES = 1 << 20
_WHOLE_BYTES = 16 * _SAMPLED_BYTES
_VERSIONED = ("numpy", "torch", "megatron-core", "transformers", "tokenizers", "sentencepiece", "gigatoken",
    "transformer-engine", "rensa",
)  # fmt: skip


@dataclass
class StageContext:
    """What a stage gets besides its own settings.

    Attributes:
        name: name of the stage.
        directory: the folder that the stage owns.
        seed: seed of the recipe; every random choice derives from it (see :mod:`megatron_ipt.seeding`).
        inputs: folders of the stages that it reads, by kind of data.
        compression: compression of JSON Lines shards: ``none``, ``gz`` or ``zst``.
        recipe_name: name of the recipe, for titles and model cards.
    """

    name: str
    directory: Path
    seed: int
    inputs: Mapping[str, Path] = field(default_factory=dict)
    compression: str = "none"
    recipe_name: str = ""


def fingerprint_file(path: str | Path) -> dict[str, Any]:
    """``{path, bytes, xxh128}`` of an input file.

    Files up to 16 MiB are hashed completely; of larger files the first, middle and last MiB, so that a corpus of
    terabytes is checked in seconds. Modification times of local files are ignored, so copies match the original.

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
    """Fingerprint of a file of custom code; empty if ``path`` is None.

    If nothing else changed, existing output is kept with a warning, so that a fixed engine can resume.
    """
    return [] if path is None else [fingerprint_file(path) | {"code": True}]


def fingerprint_stage(directory: Path, ignore: Collection[str] = ()) -> dict[str, Any]:
    """Identity of a finished stage: a hash of its inputs, settings and counts.

    Args:
        ignore: settings that do not count.

    Raises:
        StageError: the stage is not complete.
    """
    manifest = read_manifest(directory)
    if manifest is None or manifest["status"] != "complete":
        raise StageError(f"{directory}: this stage is not complete; run it first")
    identity = {name: manifest[name] for name in ("inputs", "settings", "counts")}
    identity["settings"] = {name: value for name, value in identity["settings"].items() if name not in ignore}
    identity["counts"] = {name: count for name, count in identity["counts"].items() if name != USAGE}
    digest = hashlib.blake2b(orjson.dumps(identity, option=orjson.OPT_SORT_KEYS), digest_size=16).hexdigest()
    return {"path": str(directory), "stage": manifest["stage"], "identity": digest}


def read_manifest(directory: Path) -> dict[str, Any] | None:
    """The manifest in ``directory``, or None if the stage has not started."""
    path = directory / MANIFEST
    return read_json(path) if path.exists() else None


def run_stage(
    context: StageContext,
    settings: dict[str, Any],
    inputs: Iterable[dict[str, Any]],
    work: Callable[[], dict[str, Any]],
    overwrite: bool = False,
    partial: bool = False,
    defaults: Mapping[str, Any] | None = None,
    again: bool = False,
    keeps: tuple[str, ...] = (),
) -> bool:
    """Runs ``work`` unless its output is complete; returns whether it ran.

    Args:
        context: the stage's context.
        settings: settings that affect the output.
        inputs: fingerprints of what the stage reads.
        work: does the work and returns the counts for the manifest; resumes from partial output that it left.
        overwrite: discard output made with different settings or inputs instead of raising.
        partial: this process does one share of the work, concurrently with others; the stage stays incomplete until a
            run without ``--shard`` finds all shares finished.
        defaults: of all settings. A setting that output of an earlier version was made without, and that has its
            default now, is no difference.
        again: run also if the output is complete.
        keeps: names in the stage's folder that ``overwrite`` does not discard.

    Raises:
        StageError: the folder contains output made with different settings or inputs, or another process is running
            the stage.
    """
    manifest = {
        "stage": context.name,
        "status": "running",
        "settings": _through_json(settings),
        "inputs": list(inputs),
        "versions": installed_versions(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    with stage_locked(context, shared=partial):
        if partial:
            return _work_on_share(context, manifest, work, defaults, again)
        seconds_before = _prepare(context.directory, manifest, overwrite, defaults, again, keeps)
        if seconds_before is None:
            return False
        remove_leftovers(context.directory)
        _work(context.directory, manifest, work, seconds_before)
    return True


def stage_locked(context: StageContext, shared: bool = False) -> contextlib.AbstractContextManager[None]:
    """Holds the lock of a stage: alone to make all of it, ``shared`` to make a share of it.

    Raises:
        StageError: another process is running the stage.
    """
    return locked(context.directory.with_name(f".{context.name}.lock"), context.directory, shared=shared)


def check_existing(
    context: StageContext,
    settings: dict[str, Any],
    inputs: Iterable[dict[str, Any]],
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """Refuses output that was made with different settings or inputs; for the arguments see :func:`run_stage`.

    Raises:
        StageError: lists the differences.
    """
    earlier = read_manifest(context.directory)
    if earlier is not None:
        now = {"stage": context.name, "settings": _through_json(settings), "inputs": list(inputs)}
        _refuse(context.directory, _differences(earlier, now, defaults)[0])


def _through_json(settings: dict[str, Any]) -> Any:
    """Settings with the types that those of an earlier manifest have."""
    return orjson.loads(orjson.dumps(settings))


def _work_on_share(
    context: StageContext,
    manifest: dict[str, Any],
    work: Callable[[], dict[str, Any]],
    defaults: Mapping[str, Any] | None,
    again: bool,
) -> bool:
    beginning = context.directory.with_name(f".{context.name}.begin.lock")
    with locked(beginning, context.directory, wait=True):
        seconds_before = _prepare(context.directory, manifest, False, defaults, again)
        if seconds_before is None:
            return False
        earlier = read_manifest(context.directory)
        if earlier is None or earlier["status"] == "complete" or earlier["inputs"] != manifest["inputs"]:
            write_json(context.directory / MANIFEST, manifest | ({"seconds": seconds_before} if earlier else {}))
    work()
    return True


def _prepare(
    directory: Path,
    manifest: dict[str, Any],
    overwrite: bool,
    defaults: Mapping[str, Any] | None,
    again: bool,
    keeps: tuple[str, ...] = (),
) -> float | None:
    """Prepares ``directory``; returns the seconds spent by earlier attempts, or None if the stage is complete."""
    earlier = read_manifest(directory)
    if earlier is not None:
        differences, changed_code, larger = _differences(earlier, manifest, defaults)
        if changed_code and not differences and not overwrite:
            logger.warning(
                "%s: %s; existing output is kept; use --overwrite to regenerate it", directory, ", ".join(changed_code)
            )
        if not overwrite:
            _refuse(directory, differences)
        if overwrite and (differences or changed_code):
            _discard(directory, keeps)
            earlier = None
        elif earlier["status"] == "complete" and not again and not larger:
            return None
    directory.mkdir(parents=True, exist_ok=True)
    return float(earlier.get("seconds", 0.0)) if earlier is not None else 0.0


def _discard(directory: Path, keeps: tuple[str, ...]) -> None:
    """Removes the content of a stage's folder, its manifest last: until then, what is left is output to discard."""
    for path in sorted(directory.iterdir(), key=lambda path: path.name == MANIFEST):
        if path.is_dir() and path.name not in keeps:
            shutil.rmtree(path)
        elif path.name not in keeps:
            path.unlink()


def _refuse(directory: Path, differences: list[str]) -> None:
    if differences:
        raise StageError(
            f"{directory}: contains output made with different settings or inputs:\n  "
            + "\n  ".join(differences)
            + "\nUse another output_dir, or --overwrite to discard the old output of this and all later stages."
        )


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
    """Markers of finished shards: ``shard-00003.done.json`` next to the output, with the shard's counts."""

    def __init__(self, directory: Path):
        self.directory = directory

    def counts(self, name: str) -> dict[str, Any] | None:
        """Counts of shard ``name``, or None while it is unfinished."""
        path = self._path(name)
        return read_json(path) if path.exists() else None

    def finish(self, name: str, counts: dict[str, Any]) -> None:
        """Call when every file of the shard is under its final name."""
        write_json(self._path(name), counts)

    def reopen(self, name: str) -> None:
        """Makes shard ``name`` unfinished; its files stay until it is finished again."""
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.directory / f"{name.split('.', 1)[0]}.done.json"


def _write_quietly(path: Path, manifest: dict[str, Any]) -> None:
    """Records a failure. Ignores errors of its own, so that the original one (e.g. a full disk) is shown."""
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(orjson.dumps(manifest, option=orjson.OPT_INDENT_2))
    except (OSError, StorageError):
        return


def changed_settings(
    before: Mapping[str, Any], now: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> dict[str, tuple[Any, Any]]:
    """(value before, value now) of every setting that differs, by its path; for ``defaults`` see :func:`run_stage`."""
    plain = (orjson.loads(orjson.dumps(dict(settings or {}))) for settings in (before, now, defaults))
    old, new, default = map(_flatten, plain)
    return {
        name: (old.get(name), new.get(name))
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
        and not (name not in old and name in default and new.get(name) == default[name])
    }


def _differences(
    earlier: dict[str, Any], now: dict[str, Any], defaults: Mapping[str, Any] | None
) -> tuple[list[str], list[str], bool]:
    """Differences in settings and inputs, differences in custom code, and whether there is more input of a kind that
    only adds to the output (``adds`` in its fingerprint)."""
    changed = changed_settings(earlier["settings"], now["settings"], defaults)
    found = [f"{now['stage']}.{name}: was {old!r}, is {new!r}" for name, (old, new) in changed.items()]
    code: list[str] = []
    larger = False
    before = {entry["path"]: entry for entry in earlier["inputs"]}
    after = {entry["path"]: entry for entry in now["inputs"]}
    for path in sorted(before.keys() | after.keys()):
        differences = code if (after.get(path) or before[path]).get("code") else found
        if path not in before and after[path].get("adds"):
            larger = True
        elif path not in after:
            differences.append(f"input {path}: removed")
        elif path not in before:
            differences.append(f"input {path}: new")
        elif before[path] != after[path]:
            differences.append(f"input {path}: changed")
    return found, code, larger


def _flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by dotted name. An empty mapping is none at all, as in a manifest from before there was the key."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def installed_versions() -> dict[str, str]:
    """Versions of this package, of Python, and of the libraries that affect the output."""
    versions = {"megatron-ipt": __version__, "python": platform.python_version()}
    for package in _VERSIONED:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
