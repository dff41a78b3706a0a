"""Reads a pickle as data: nothing in it is ever called or imported.

Checkpoints store their metadata and arguments in pickles, which can run any code when loaded the usual way. Here the
few harmless types that such files need are built, tensors become a description of where their bytes are, and every
other class becomes an inert object that only keeps its state. This is stricter than torch's ``weights_only``, and
reads arguments of Megatron-LM without its package.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from megatron_ipt.errors import InputError

_BUILTINS = {kind.__name__: kind for kind in (set, frozenset, list, dict, tuple, bytearray, complex, int, float, str)}
_STORAGES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}


class Inert:
    """Replaces an object of any class: keeps its arguments and state, and does nothing."""

    def __new__(cls, *arguments: Any, **_: Any) -> Inert:
        made = super().__new__(cls)
        made.arguments = arguments
        return made

    def __init__(self, *_: Any, **__: Any):
        return

    arguments: tuple[Any, ...]
    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state
        if isinstance(state, dict):
            self.__dict__.update({name: value for name, value in state.items() if isinstance(name, str)})

    def __setitem__(self, name: Any, value: Any) -> None:
        return

    def append(self, value: Any) -> None:
        return

    def extend(self, values: Any) -> None:
        return


@dataclass(frozen=True)
class TensorRecord:
    """A tensor of a torch file: ``size`` and ``stride`` in elements from element ``offset`` of storage ``storage``."""

    storage: str
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class _Storage:
    name: str
    dtype: torch.dtype


def _tensor(storage: _Storage, offset: int, size: Any, stride: Any, *_: Any) -> TensorRecord:
    return TensorRecord(storage.name, storage.dtype, int(offset), tuple(size), tuple(stride))


def _parameter(data: Any, *_: Any) -> Any:
    return data


_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        if module in ("builtins", "__builtin__") and name in _BUILTINS:
            return _BUILTINS[name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return _Storage("", _STORAGES[name])
        return type(name, (Inert,), {"__module__": module})

    def persistent_load(self, identity: Any) -> Any:
        kind, storage, name, *_ = identity
        if kind != "storage" or not isinstance(storage, _Storage):
            raise pickle.UnpicklingError(f"unknown reference {identity!r}")
        return _Storage(str(name), storage.dtype)


def load(data: bytes, path: Path) -> Any:
    """The object in the pickle ``data``, which was read from ``path``.

    Raises:
        InputError: it is not a pickle, or a damaged one.
    """
    unpickler: Callable[[], Any] = _Unpickler(io.BytesIO(data)).load
    try:
        return unpickler()
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
        raise InputError(f"{path}: damaged or of an unknown format: {error}") from error
    except (MemoryError, OverflowError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: damaged: {type(error).__name__}") from error
