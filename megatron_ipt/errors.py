"""Errors a user can act on.

Every one of them is shown as its message alone, without a traceback, and decides the exit status of the command. The
message names the file, line or recipe key, what was found, what was expected, and what to do. Anything else that
escapes is a bug in this package and shows its traceback with status 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Base of all errors that are explained rather than traced."""

    exit_status = 1


class RecipeError(UserError):
    """The recipe or the command line asks for something that does not exist or cannot be."""

    exit_status = 2


class InputError(UserError):
    """A corpus, tokenizer, dataset or checkpoint that was given cannot be used."""

    exit_status = 3


class StageError(UserError):
    """A stage could not finish, or its earlier output does not match what is asked now."""

    exit_status = 4


class StorageError(UserError):
    """Writing failed: full disk, missing permission, vanished folder."""

    exit_status = 5


def nearest(found: str, known: Iterable[object], cutoff: float = 0.6) -> str:
    """The name in ``known`` nearest to ``found``; empty where none is near."""
    return next(iter(difflib.get_close_matches(found, list(map(str, known)), n=1, cutoff=cutoff)), "")


def did_you_mean(found: str, known: Iterable[object], prefix: str = "", cutoff: float = 0.6) -> str:
    """``" Did you mean NAME?"`` for the name in ``known`` nearest to ``found``; empty where none is near.

    Args:
        prefix: what stands before the names where they are used, e.g. ``training.``.
        cutoff: least similarity, from 0 to 1.
    """
    near = nearest(found, known, cutoff)
    return f" Did you mean {prefix}{near}?" if near else ""


INTERRUPTED_STATUS = 130
"""Exit status after Ctrl-C, as shells report SIGINT."""

CHECKPOINTED_STATUS = 75
"""Exit status of a training that was asked to stop, saved a checkpoint and can be resumed (EX_TEMPFAIL)."""
