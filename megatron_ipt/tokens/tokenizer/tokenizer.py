"""Tokenizers behind one interface: SentencePiece models and Hugging Face ``tokenizer.json``.

Both turn text into ids without control tokens: a literal ``</s>`` in a document stays text. BOS and EOD are added by
the caller, as ids. Either can be saved as a folder that transformers loads. Encoding is done by an engine
(:mod:`megatron_ipt.tokens.tokenizer.engines`): the library the tokenizer was made for, or a faster one that agrees.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from megatron_ipt.errors import InputError
from megatron_ipt.files import open_bytes
from megatron_ipt.tokenizer_readers import read_sentencepiece, read_tokenizer_json, special_tokens
from megatron_ipt.tokens.tokenizer.engines import Engine, SentencePieceEngine, TokenizersEngine, choose, open_engine

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "chat_template.jinja",
)  # fmt: skip
"""What is taken over from a Hugging Face folder. A ``tokenizer.model`` beside it is not: the two may differ."""


class Tokenizer(Protocol):
    """Text to ids and back.

    Attributes:
        vocab_size: ids are below it.
        bos_id: beginning of sequence, or None.
        eod_id: end of document.
        pad_id: padding, or None.
        engine: the library it was made for.
    """

    vocab_size: int
    bos_id: int | None
    eod_id: int
    pad_id: int | None
    engine: Engine

    @property
    def control_tokens(self) -> list[str]:
        """Control tokens and others that were added to the trained vocabulary, as text."""
        ...

    def encode(self, texts: list[str]) -> list[npt.NDArray[np.integer]]:
        """Ids of every text, 1-d, without BOS and EOD."""
        ...

    def decode(self, ids: list[int]) -> str:
        """Text of ``ids``."""
        ...

    def save(self, folder: Path) -> None:
        """Writes the files that transformers and this package load it from."""
        ...


class SentencePieceTokenizer:
    """A SentencePiece model.

    Args:
        model: content of a ``.model`` file.
        name: of the file, for errors.
    """

    def __init__(self, model: bytes, name: str | Path):
        self._model = model
        self._processor = read_sentencepiece(model, name)
        self.vocab_size = self._processor.get_piece_size()
        self.bos_id = _id_or_none(self._processor.bos_id())
        self.pad_id = _id_or_none(self._processor.pad_id())
        if self._processor.eos_id() < 0:
            raise InputError(f"{name}: the model has no end-of-sentence piece, which marks the end of a document")
        self.eod_id = self._processor.eos_id()
        self.engine: Engine = SentencePieceEngine(self._processor)

    @cached_property
    def control_tokens(self) -> list[str]:
        # Pieces that were not trained but added (control, byte and user-defined ones) have no score.
        ids = list(range(self.vocab_size))
        pieces, scores = self._processor.id_to_piece(ids), self._processor.get_score(ids)
        return [piece for piece, score in zip(pieces, scores) if score == 0]

    @classmethod
    def read(cls, path: str | Path) -> SentencePieceTokenizer:
        """The model in the file ``path``."""
        with open_bytes(path) as stream:
            return cls(stream.read(), path)

    def encode(self, texts: list[str]) -> list[npt.NDArray[np.integer]]:
        return self.engine.encode(texts)

    def decode(self, ids: list[int]) -> str:
        return str(self._processor.decode(ids))

    def save(self, folder: Path) -> None:
        from megatron_ipt.tokens.tokenizer.sentencepiece_export import write_hugging_face

        self.save_model(folder)
        write_hugging_face(self._processor, folder, self.control_tokens)

    def piece(self, identifier: int) -> str:
        """The piece with this id."""
        return str(self._processor.id_to_piece(identifier))

    def save_model(self, folder: Path) -> None:
        """Writes the ``.model`` file alone, which every model can be saved as."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer.model").write_bytes(self._model)


class HuggingFaceTokenizer:
    """A folder with ``tokenizer.json``, used as published through the tokenizers library."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        file = self.folder / "tokenizer.json"
        if not file.is_file():
            raise InputError(f"{file}: not found; tokens.tokenizer.path must be a folder that holds tokenizer.json")
        self._tokenizer = read_tokenizer_json(file)
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocabulary.values()) + 1
        self.size = len(vocabulary)
        configuration = self.folder / "tokenizer_config.json"
        ids = {name: vocabulary.get(token) for name, token in special_tokens(self.folder).items()}
        self.bos_id = ids.get("bos_token")
        self.pad_id = ids.get("pad_token")
        eod_id = ids.get("eos_token")
        if eod_id is None:
            eod_id = ids.get("sep_token")
        if eod_id is None:
            raise InputError(
                f"{configuration}: names no eos_token of the vocabulary, which marks the end of a document"
            )
        self.eod_id = eod_id
        self.engine: Engine = TokenizersEngine(self._tokenizer)

    @cached_property
    def control_tokens(self) -> list[str]:
        return [token.content for token in self._tokenizer.get_added_tokens_decoder().values()]

    def template(self) -> tuple[list[int], list[int]]:
        """Ids that the published tokenizer puts before and after every text (its post-processor)."""
        encoding = self._tokenizer.encode("a", add_special_tokens=True)
        mask = encoding.special_tokens_mask
        first, last = mask.index(0), len(mask) - mask[::-1].index(0)
        return encoding.ids[:first], encoding.ids[last:]

    def encode(self, texts: list[str]) -> list[npt.NDArray[np.integer]]:
        return self.engine.encode(texts)

    def decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False))

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name in TOKENIZER_FILES:
            if (self.folder / name).is_file():
                shutil.copyfile(self.folder / name, folder / name)


def open_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer that the tokens stage saved in ``folder``.

    A SentencePiece model is preferred where there is one: it is the original, ``tokenizer.json`` the copy.
    """
    model = Path(folder) / "tokenizer.model"
    return SentencePieceTokenizer.read(model) if model.is_file() else HuggingFaceTokenizer(folder)


def choose_engine(wanted: str, folder: Path) -> str:
    """Name of the engine for the tokenizer in ``folder``: ``wanted``, or the best if that is ``auto``.

    Raises:
        InputError: the engine asked for cannot be used.
    """
    tokenizer = open_tokenizer(folder)
    return choose(wanted, tokenizer.engine, folder / "tokenizer.json", tokenizer.control_tokens)


@lru_cache(maxsize=4)
def engine_in(folder: Path, name: str) -> Engine:
    """Engine ``name`` for the tokenizer in ``folder``; opened once a process."""
    return open_engine(name, lambda: open_tokenizer(folder).engine, folder / "tokenizer.json")


def train_sentencepiece(lines: Iterator[str], vocab_size: int) -> SentencePieceTokenizer:
    """Trains a BPE model with byte fallback.

    Normalization is off and blanks are kept, so that decoding gives back every character; digits stand alone. A
    corpus too small for ``vocab_size`` pieces gives a smaller model.

    Args:
        lines: the text to learn from.
        vocab_size: pieces wanted, special tokens and 256 bytes included.

    Raises:
        InputError: there is nothing to learn from.
    """
    import sentencepiece

    with io.BytesIO() as stream:
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=lines,
                model_writer=stream,
                model_type="bpe",
                vocab_size=vocab_size,
                hard_vocab_limit=False,
                byte_fallback=True,
                normalization_rule_name="identity",
                remove_extra_whitespaces=False,
                split_digits=True,
                allow_whitespace_only_pieces=True,
                character_coverage=0.9999,
                unk_id=0,
                bos_id=1,
                eos_id=2,
                pad_id=-1,
                max_sentence_length=1 << 16,
                minloglevel=2,
            )
        except RuntimeError as error:
            raise InputError(f"tokens.tokenizer: SentencePiece could not be trained: {error}") from error
        return SentencePieceTokenizer(stream.getvalue(), "the trained tokenizer")


def _id_or_none(identifier: int) -> int | None:
    return identifier if identifier >= 0 else None


def write_tokenizer_config(folder: Path, bos: str | None, eos: str, unk: str | None) -> None:
    """Writes ``tokenizer_config.json`` for a plain fast tokenizer.

    The class is the generic one on purpose: transformers rebuilds model-specific ones from their vocabulary and then
    tokenizes differently from the ``tokenizer.json`` beside it.
    """
    configuration = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": bos,
        "eos_token": eos,
        "unk_token": unk,
        "add_bos_token": bos is not None,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": int(1e30),
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(configuration, indent=2) + "\n")
