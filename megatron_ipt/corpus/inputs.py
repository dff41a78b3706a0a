"""From the recipe's ``inputs`` to a list of named files.

The name of a file (relative to the folder or pattern that found it) becomes part of document ids, so that ids do not
depend on where a corpus happens to be mounted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from megatron_ipt.errors import InputError
from megatron_ipt.files import COMPRESSIONS, is_remote


@dataclass(frozen=True)
class InputFile:
    path: str
    name: str


def base_suffix(path: str) -> str:
    """The suffix that shows the format, without one of compression: ``a.jsonl.zst`` -> ``.jsonl``."""
    suffixes = PurePosixPath(path).suffixes
    while suffixes and suffixes[-1] in COMPRESSIONS.values():
        suffixes.pop()
    return suffixes[-1].lower() if suffixes else ""


def find_files(
    inputs: Sequence[str], is_readable: Callable[[str], bool], key: str, readable: str = ""
) -> tuple[list[InputFile], list[str]]:
    """Files named by ``inputs``, sorted within each folder or pattern, and the paths in folders that were skipped.

    Args:
        inputs: files, folders, glob patterns or fsspec addresses.
        is_readable: whether a path can be read; other files in folders are skipped.
        key: recipe key of the inputs, for errors.
        readable: what is readable, for errors.

    Raises:
        InputError: an input does not exist, matches nothing, has an unknown format, or two files share one name.
    """
    found: list[InputFile] = []
    skipped: list[str] = []
    for entry in inputs:
        matches = matching_files(entry, key)
        explicit = len(matches) == 1 and matches[0].path in (entry, _expanded(entry))
        for file in matches:
            if is_readable(file.path):
                found.append(file)
            elif explicit:
                known = f"; readable are {readable}" if readable else ""
                raise InputError(f"{key}: {entry}: unknown format {base_suffix(entry) or '(no suffix)'!r}{known}")
            else:
                skipped.append(file.path)
    if not found:
        raise InputError(f"{key}: no readable file in {', '.join(inputs) or 'an empty list'}")
    names: dict[str, str] = {}
    for file in found:
        if not _is_unicode(file.path):
            raise InputError(f"{key}: {file.path!a}: the name is not valid UTF-8; rename the file")
        if names.setdefault(file.name, file.path) != file.path:
            raise InputError(
                f"{key}: {names[file.name]} and {file.path} would both be called {file.name} in document ids; "
                "name a common parent folder instead"
            )
    return list(dict.fromkeys(found)), skipped


def _is_unicode(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def matching_files(entry: str, key: str) -> list[InputFile]:
    """Files that one input stands for, whatever their format.

    Raises:
        InputError: there are none.
    """
    try:
        matches = _remote_matches(entry, key) if is_remote(entry) else _matches(entry)
    except (OSError, RuntimeError, ValueError, NotImplementedError) as error:
        # A name that is too long, an unknown user after "~", or an invalid pattern.
        raise InputError(f"{key}: {entry}: {getattr(error, 'strerror', None) or error}") from error
    if not matches:
        raise InputError(f"{key}: {entry or repr(entry)}: no such file or folder, or nothing matches")
    return matches


def _matches(entry: str) -> list[InputFile]:
    if not entry:
        # As a path it would be the current folder.
        return []
    path = Path(_expanded(entry))
    if path.is_file():
        return [InputFile(_expanded(entry), path.name)]
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


def _expanded(entry: str) -> str:
    """``entry`` as it is, unless it begins with the home folder of a user."""
    return str(Path(entry).expanduser()) if entry.startswith("~") else entry


def _remote_matches(entry: str, key: str) -> list[InputFile]:
    import fsspec

    try:
        filesystem, _, paths = fsspec.get_fs_token_paths(entry)
        files: list[str] = []
        for path in paths:
            files += filesystem.find(path) if filesystem.isdir(path) else [path] if filesystem.exists(path) else []
    except Exception as error:
        # Each file system has errors of its own.
        raise InputError(f"{key}: {entry}: {str(error) or type(error).__name__}") from error
    protocol = entry.split("://", 1)[0]
    return [InputFile(f"{protocol}://{file}" if "://" not in file else file, file) for file in sorted(files)]
