"""From the recipe's ``inputs`` to a list of named files.

The name of a file (relative to the folder or pattern that found it) becomes part of document ids, so that ids do not
depend on where a corpus happens to be mounted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from megatron_ipt.errors import InputError
from megatron_ipt.files import COMPRESSIONS, is_remote


@dataclass(frozen=True)
class InputFile:
    path: str
    name: str


def base_suffix(path: str) -> str:
    """Suffix that tells the format, below a compression suffix: ``a.jsonl.zst`` -> ``.jsonl``."""
    suffixes = PurePosixPath(path).suffixes
    while suffixes and suffixes[-1] in COMPRESSIONS.values():
        suffixes.pop()
    return suffixes[-1].lower() if suffixes else ""


def find_files(
    inputs: list[str], is_readable: Callable[[str], bool], readable: str = "files of other formats"
) -> tuple[list[InputFile], list[str]]:
    """Files named by ``inputs``, sorted within each folder or pattern, and the paths in folders that no reader takes.

    Args:
        readable: the suffixes that ``is_readable`` takes, for errors.

    Raises:
        InputError: an input does not exist, matches nothing, has an unknown format, or two files share one name.
    """
    found: list[InputFile] = []
    passed_over: list[str] = []
    for entry in inputs:
        matches = _matches(entry)
        if not matches:
            raise InputError(f"corpus.inputs: {entry}: no such file or folder, or nothing matches")
        explicit = len(matches) == 1 and matches[0].path == entry
        for file in matches:
            if is_readable(file.path):
                found.append(file)
            elif explicit:
                raise InputError(
                    f"corpus.inputs: {entry}: unknown format {base_suffix(entry) or '(no suffix)'!r}; readable are "
                    f"{readable}, optionally followed by .gz or .zst. corpus.reader names a reader of your own"
                )
            else:
                passed_over.append(file.path)
    if not found:
        raise InputError(f"corpus.inputs: no readable file in {', '.join(inputs)}")
    names: dict[str, str] = {}
    for file in found:
        if names.setdefault(file.name, file.path) != file.path:
            raise InputError(
                f"corpus.inputs: {names[file.name]} and {file.path} would both be called {file.name} in document ids; "
                "name a common parent folder instead"
            )
    return list(dict.fromkeys(found)), passed_over


def _matches(entry: str) -> list[InputFile]:
    if is_remote(entry):
        return _remote_matches(entry)
    path = Path(entry).expanduser()
    if path.is_file():
        return [InputFile(entry, path.name)]
    if path.is_dir():
        base = path.resolve().name
        return [
            InputFile(str(file), f"{base}/{file.relative_to(path).as_posix()}")
            for file in sorted(path.rglob("*"))
            if file.is_file() and not file.name.startswith(".") and file.name != "README.md"
        ]
    anchor = Path(path.anchor) if path.is_absolute() else Path()
    pattern = str(path.relative_to(path.anchor)) if path.is_absolute() else str(path)
    if not any(mark in pattern for mark in "*?["):
        return []
    return [InputFile(str(file), file.name) for file in sorted(anchor.glob(pattern)) if file.is_file()]


def _remote_matches(entry: str) -> list[InputFile]:
    import fsspec

    try:
        filesystem, _, paths = fsspec.get_fs_token_paths(entry)
        files: list[str] = []
        for path in paths:
            files += filesystem.find(path) if filesystem.isdir(path) else [path] if filesystem.exists(path) else []
    except (OSError, ImportError, ValueError) as error:
        raise InputError(f"corpus.inputs: {entry}: {error}") from error
    protocol = entry.split("://", 1)[0]
    return [InputFile(f"{protocol}://{file}" if "://" not in file else file, file) for file in sorted(files)]
