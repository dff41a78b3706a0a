"""The one tokenizer of all prompts, pinned to its published files.

Engines and loaders disagree about the ids of one and the same text (a BOS added twice, ``▁`` before the first word or
not), so ids are made here, once, and sent as ids wherever the engine takes them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from megatron_ipt.errors import InputError
from megatron_ipt.tokenizer_readers import read_sentencepiece, read_tokenizer_json, special_tokens


class PromptTokenizer(Protocol):
    """Text to ids and back.

    Attributes:
        path: the file it was read from; None where there is none and tokens are estimated.
        bos, eos: control tokens as a server writes them in text; ``bos`` is empty where there is none.
        bos_id, eos_id: their ids; ``bos_id`` is None where there is none.
        control_tokens: every control token as text.
    """

    path: Path | None
    bos: str
    eos: str
    bos_id: int | None
    eos_id: int
    control_tokens: tuple[str, ...]

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Ids of every text, without BOS and EOS."""
        ...

    def decode(self, ids: list[int]) -> str:
        """Text of ``ids``, control tokens left out."""
        ...


def find_tokenizer(path: str | Path, key: str = "tokenizer") -> Path:
    """The tokenizer file that ``path`` means: itself, or in a folder ``tokenizer.json``, else ``tokenizer.model``.

    Args:
        path: folder or file.
        key: the recipe key or option that holds it, for errors.

    Raises:
        InputError: there is none.
    """
    path = Path(path)
    candidates = [path / "tokenizer.json", path / "tokenizer.model"] if path.is_dir() else [path]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    looked = " and ".join(map(str, candidates))
    raise InputError(
        f"{key}: no tokenizer at {path} (looked for {looked}). Give a folder with tokenizer.json or tokenizer.model, "
        "or one of these files. It must be the tokenizer of the model that generates."
    )


def open_prompt_tokenizer(path: str | Path, key: str = "tokenizer") -> PromptTokenizer:
    """Reads the tokenizer in a folder or file.

    Args:
        path: folder or file.
        key: the recipe key or option that holds it, for errors.

    Raises:
        InputError: there is none, or it names no end-of-sequence token.
    """
    file = find_tokenizer(path, key)
    return _SentencePiece(file) if file.suffix == ".model" else _TokenizerJson(file)


class ByteTokenizer:
    """Takes every byte of a text for a token: an estimate for chats with a model whose tokenizer is not at hand.

    It never counts too few: a token of a byte-level vocabulary, or of one that falls back to bytes, stands for at least
    one byte. English has about four bytes per token.
    """

    path: Path | None = None
    bos = ""
    eos = ""
    bos_id: int | None = None
    eos_id = 256
    """Of no byte."""
    control_tokens: tuple[str, ...] = ()

    def encode(self, texts: list[str]) -> list[list[int]]:
        return [list(text.encode(errors="replace")) for text in texts]

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode(errors="replace")


class _TokenizerJson:
    def __init__(self, path: Path):
        self.path: Path | None = path
        self._tokenizer = read_tokenizer_json(path)
        added = self._tokenizer.get_added_tokens_decoder()
        self.control_tokens = tuple(token.content for token in added.values() if token.special)
        named = special_tokens(path.parent)
        self.bos, self.eos = named.get("bos_token", ""), named.get("eos_token", "")
        self.bos_id, eos_id = self._tokenizer.token_to_id(self.bos), self._tokenizer.token_to_id(self.eos)
        if eos_id is None:
            raise InputError(
                f"{path.parent / 'tokenizer_config.json'}: names no eos_token of the vocabulary. It marks the end of "
                "an answer; add the key eos_token."
            )
        self.eos_id = eos_id

    def encode(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))


class _SentencePiece:
    def __init__(self, path: Path):
        self.path: Path | None = path
        processor = read_sentencepiece(path.read_bytes(), path)
        self._processor = processor
        if processor.eos_id() < 0:
            raise InputError(f"{path}: the model has no end-of-sentence piece, which marks the end of an answer")
        self.eos_id = int(processor.eos_id())
        self.bos_id = int(processor.bos_id()) if processor.bos_id() >= 0 else None
        self.eos = str(processor.id_to_piece(self.eos_id))
        self.bos = str(processor.id_to_piece(self.bos_id)) if self.bos_id is not None else ""
        control = [i for i in range(processor.get_piece_size()) if processor.is_control(i) or processor.is_unknown(i)]
        self._control = frozenset(control)
        self.control_tokens = tuple(str(processor.id_to_piece(i)) for i in control)

    def encode(self, texts: list[str]) -> list[list[int]]:
        return [list(ids) for ids in self._processor.encode(texts)]

    def decode(self, ids: list[int]) -> str:
        return str(self._processor.decode([i for i in ids if i not in self._control]))


def breaking_up(marks: Iterable[str]) -> Callable[[str], str]:
    """A function that puts a space inside every one of ``marks`` in a text: ``<QUE>`` becomes ``< QUE>``."""
    # A control token of one character cannot be broken up; as ids it is text anyway.
    longest_first = sorted({mark for mark in marks if len(mark) > 1}, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
    return lambda text: pattern.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)
