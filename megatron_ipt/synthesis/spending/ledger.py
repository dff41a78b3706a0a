"""The ledger: what was ever asked for and paid for in the folder of a stage, in files that survive a kill.

Every process has a file of its own, locked while it runs; a later process continues with a file that nobody holds. A
change is one ``write`` of one record in place: before a request is sent, and when its answer is here. A killed process
thus leaves exact sums over the answers that it got, and how many requests were under way, whose cost nobody knows. A
power failure loses what was not flushed, about a second. Nothing ever resets the ledger, ``--overwrite`` included: the
money is spent.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import orjson

from megatron_ipt.errors import InputError, StageError, StorageError, UserError
from megatron_ipt.files import atomic_open
from megatron_ipt.inference.usage import Meter, Usage
from megatron_ipt.locks import locked
from megatron_ipt.synthesis.spending.price import PriceConfig

USAGE_FOLDER = "usage"
"""Below the folder of the stage."""

_RECORD_BYTES = 256
"""Below a sector, and rewritten at once."""
_OTHERS_SECONDS = 1.0
"""How old the sums of other processes may be when the limit is checked."""
_READINGS = 10


class Ledger(Meter):
    """The ledger of this process. Use as a context manager.

    Args:
        folder: of the ledger.
        price: decides what is too much.
        key: of the section ``price`` in the recipe, for errors.

    Attributes:
        usage: sums in the file of this process, those of processes before it included.

    Raises:
        InputError: a file of the ledger is damaged.
        StorageError: it cannot be written.
    """

    def __init__(self, folder: Path, price: PriceConfig, key: str = "synthesis.price"):
        super().__init__()
        self._folder = folder
        self._price = price
        self._key = key
        self._descriptor = -1
        self._dirty = False
        self._others = Usage()
        self._looked = float("-inf")

    def __enter__(self) -> Ledger:
        self._lock, self._path = _free_place(self._folder)
        try:
            if not self._path.exists():
                with atomic_open(self._path) as stream:
                    stream.write(_record(self.usage))
            self.usage = _read(self._path)
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
            self._began = self.total()
        except OSError as error:
            self._lock.close()
            raise self._unwritable(error) from error
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.sync()
        finally:
            os.close(self._descriptor)
            self._descriptor = -1
            self._lock.close()

    def changed(self) -> None:
        try:
            os.pwrite(self._descriptor, _record(self.usage), 0)
        except OSError as error:
            raise self._unwritable(error) from error
        self._dirty = True

    def answered(self, prompt_tokens: int | None, cached_tokens: int, generated_tokens: int | None) -> None:
        super().answered(prompt_tokens, cached_tokens, generated_tokens)
        if self._price.given and (prompt_tokens is None or generated_tokens is None):
            what = "prompt_tokens" if prompt_tokens is None else "completion_tokens"
            raise StageError(
                f"{self._key}: an answer of the server has no usage.{what}, so its cost cannot be counted. Use a "
                f"server that reports usage, or remove {self._key}."
            )

    def sync(self) -> None:
        if self._dirty and self._descriptor >= 0:
            self._dirty = False
            try:
                os.fsync(self._descriptor)
            except OSError as error:
                raise self._unwritable(error) from error

    def total(self) -> Usage:
        """Of all processes: exact for this one, of the others at most a second old."""
        now = time.monotonic()
        if now - self._looked >= _OTHERS_SECONDS:
            self._looked = now
            self._others = _sum(path for path in _files(self._folder) if path != self._path)
        return self._others + self.usage

    def spent(self) -> Usage:
        """Of all processes since this one began."""
        return self.total() - self._began

    def exhausted(self) -> UserError | None:
        limit = self._price.limit
        if limit is None:
            return None
        usage = self.total()
        cost = self._price.cost(usage)
        if cost < limit:
            return None
        return StageError(
            f"{self._key}.limit: {self._price.text(limit)} is reached: {usage.answers:,} answers have cost "
            f"{self._price.text(cost)}, earlier runs in {self._folder.parent} included. What is finished is kept: "
            "raise the limit and rerun to resume."
        )

    def figures(self) -> dict[str, float]:
        usage = self.total()
        figures: dict[str, float] = {f"ledger_{name}": value for name, value in usage.to_json().items()}
        if self._price.given:
            figures["ledger_cost"] = round(self._price.cost(usage), 6)
        return figures

    def _unwritable(self, error: OSError) -> StorageError:
        return StorageError(f"{self._path}: could not be written: {error.strerror or error}")


def total_usage(folder: Path) -> Usage | None:
    """The sum over all files of the ledger in ``folder``; None if there is none.

    Raises:
        InputError: a file is damaged.
    """
    files = _files(folder)
    return _sum(files) if files else None


def usage_summary(usage: Usage, price: PriceConfig) -> dict[str, Any]:
    """For the manifest: the sums, and what they cost if there are prices."""
    summary: dict[str, Any] = {**usage.to_json(), "unanswered": usage.unanswered}
    return summary | ({"cost": round(price.cost(usage), 6), "currency": price.currency} if price.given else {})


def usage_text(usage: Usage, price: PriceConfig) -> str:
    """``1,200 answers, 1,000,000 tokens in (500,000 cached), 240,000 tokens out, 1.23 USD``."""
    cached = f" ({usage.cached_tokens:,} cached)" if usage.cached_tokens else ""
    text = (
        f"{usage.answers:,} answers, {usage.prompt_tokens:,} tokens in{cached}, {usage.generated_tokens:,} tokens out"
    )
    if usage.unanswered:
        text += f", {usage.unanswered:,} requests without an answer"
    return f"{text}, {price.text(price.cost(usage))}" if price.given else text


def _free_place(folder: Path) -> tuple[contextlib.ExitStack, Path]:
    """The first file that no other process holds, locked."""
    for number in itertools.count():
        stack = contextlib.ExitStack()
        path = folder / f"process-{number:03d}.json"
        try:
            stack.enter_context(locked(folder / f".{path.stem}.lock", path, remove=True))
        except StageError:
            continue
        return stack, path
    raise AssertionError


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("process-*.json"))


def _sum(files: Any) -> Usage:
    return sum(map(_read, files), Usage())


def _read(path: Path) -> Usage:
    """A record. Its process may be writing it, so it is read until two readings agree."""
    try:
        data = path.read_bytes()
        for _ in range(_READINGS):
            before, data = data, path.read_bytes()
            if data == before:
                break
        record = orjson.loads(data)
        return Usage(**{field.name: record[field.name] for field in fields(Usage)})
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: not a file of the ledger: {error}. Restore it, or delete it to count from 0."
        ) from error


def _record(usage: Usage) -> bytes:
    return orjson.dumps(usage.to_json()).ljust(_RECORD_BYTES - 1) + b"\n"
