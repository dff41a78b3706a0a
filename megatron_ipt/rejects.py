"""Rejected records: counted by reason, and written next to the output with source and line.

Every stage that drops records writes them here. Above ``maximum_share``, rejects become an error.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import IO

import orjson

from megatron_ipt.errors import InputError
from megatron_ipt.files import atomic_open

_SAMPLE_CHARACTERS = 500
_GRACE = 100
"""Minimum number of records before the share is checked."""


class Rejects:
    """Writes ``{reason, source, line, detail, sample}`` lines to ``path``, with further fields where a stage has some;
    no file if nothing was rejected.

    Args:
        path: rejects file; it appears when the ``with`` block ends normally or with an InputError.
        maximum_share: maximum fraction of rejected records; :meth:`check` raises above it, once 100 records were seen
            or at the end.
        limit_key: recipe key of ``maximum_share``, for the error.
    """

    def __init__(self, path: Path, maximum_share: float = 1.0, limit_key: str = "the limit"):
        self.path = path
        self.maximum_share = maximum_share
        self.limit_key = limit_key
        self.reasons: Counter[str] = Counter()
        self._context = atomic_open(path)
        self._stream: IO[bytes] | None = None

    def __enter__(self) -> Rejects:
        return self

    @property
    def count(self) -> int:
        return sum(self.reasons.values())

    def add(
        self, reason: str, source: str, line: int | None = None, detail: str = "", sample: str = "", **fields: str | int
    ) -> None:
        if self._stream is None:
            self._stream = self._context.__enter__()
        self.reasons[reason] += 1
        record = {"reason": reason, "source": source, "line": line, "detail": detail} | fields
        if sample:
            record["sample"] = sample[:_SAMPLE_CHARACTERS]
        self._stream.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))

    def check(self, accepted: int, final: bool = False) -> None:
        """Raises InputError if the rejected share exceeds ``maximum_share``."""
        seen = accepted + self.count
        if (final or seen >= _GRACE) and self.count > self.maximum_share * seen:
            common = ", ".join(f"{reason}: {n}" for reason, n in self.reasons.most_common(3))
            raise InputError(
                f"{self.count} of {seen} records were rejected ({common}), more than the limit of "
                f"{self.maximum_share:.1%}. See {self.path}; fix the input or raise {self.limit_key}."
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._stream is None:
            self.path.unlink(missing_ok=True)
        elif isinstance(error, InputError):
            # The error message points to this file.
            self._context.__exit__(None, None, None)
        else:
            self._context.__exit__(kind, error, traceback)
