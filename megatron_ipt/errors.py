"""Errors that the user can fix.

Each is printed as its message only, without a traceback, and sets the exit status of the command. The message names
the file, line or recipe key, what was found, what was expected, and what to do. Any other exception that escapes is a
bug in this package: it prints a traceback and exits with status 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Base class of errors that are printed without a traceback."""

    exit_status = 1


class RecipeError(UserError):
    """The recipe or the command line is invalid, or names something that does not exist."""

    exit_status = 2


class InputError(UserError):
    """A given corpus, tokenizer, dataset or checkpoint cannot be used."""

    exit_status = 3


class StageError(UserError):
    """A stage could not finish, or its existing output does not match the current settings."""

    exit_status = 4


class NoPairsError(StageError):
    """The model that should make the pairs made none."""

    exit_status = 6


class StorageError(UserError):
    """Writing failed: disk full, permission denied, or folder removed."""

    exit_status = 5


def nearest(found: str, known: Iterable[object], cutoff: float = 0.6) -> str:
    """The name in ``known`` closest to ``found``; empty if none is similar enough."""
    return next(iter(difflib.get_close_matches(found, list(map(str, known)), n=1, cutoff=cutoff)), "")


def did_you_mean(found: str, known: Iterable[object], prefix: str = "", cutoff: float = 0.6) -> str:
    """``" Did you mean NAME?"`` for the name in ``known`` closest to ``found``; empty if none is similar enough.

    Args:
        prefix: put before the suggested name, e.g. ``training.``.
        cutoff: minimum similarity, from 0 to 1.
    """
    near = nearest(found, known, cutoff)
    return f" Did you mean {prefix}{near}?" if near else ""


INTERRUPTED_STATUS = 130
"""Exit status after Ctrl-C, the value that shells report for SIGINT."""

CHECKPOINTED_STATUS = 75
"""Exit status of training that saved a checkpoint after a stop request and can be resumed (EX_TEMPFAIL)."""
