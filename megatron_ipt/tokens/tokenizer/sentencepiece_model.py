"""SentencePiece models: used as published, or trained here."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from megatron_ipt.errors import InputError
from megatron_ipt.files import open_bytes
from megatron_ipt.tokenizer_readers import read_sentencepiece
from megatron_ipt.tokens.tokenizer.encoders import Encoder, Ids, SentencePieceEncoder
from megatron_ipt.tokens.tokenizer.sentencepiece_export import write_hugging_face


class SentencePieceTokenizer:
    """A SentencePiece model.

    Args:
        model: content of a ``.model`` file.
        name: name of the file, for errors.

    Raises:
        InputError: it is not such a model, or has no piece for the end of a document.
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
        self.encoder: Encoder = SentencePieceEncoder(self._processor)

    @cached_property
    def control_tokens(self) -> list[str]:
        # Pieces that were added rather than trained (control, byte and user-defined ones) have no score.
        ids = list(range(self.vocab_size))
        pieces, scores = self._processor.id_to_piece(ids), self._processor.get_score(ids)
        return [piece for piece, score in zip(pieces, scores) if score == 0]

    @classmethod
    def read(cls, path: str | Path) -> SentencePieceTokenizer:
        """The model in the file ``path``."""
        with open_bytes(path) as stream:
            return cls(stream.read(), path)

    def encode(self, texts: list[str]) -> list[Ids]:
        return self.encoder.encode(texts)

    def decode(self, ids: list[int]) -> str:
        return str(self._processor.decode(ids))

    def save(self, folder: Path) -> None:
        self.save_model(folder)
        write_hugging_face(self._processor, folder, self.control_tokens)

    def piece(self, identifier: int) -> str:
        """The piece with this id."""
        return str(self._processor.id_to_piece(identifier))

    def save_model(self, folder: Path) -> None:
        """Writes the ``.model`` file only, which is possible for every model."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer.model").write_bytes(self._model)


def train_sentencepiece(lines: Iterator[str], vocab_size: int) -> SentencePieceTokenizer:
    """Trains a BPE model with byte fallback.

    Normalization is off and blanks are kept, so that decoding restores every character; each digit is a piece. A
    corpus too small for ``vocab_size`` pieces yields a smaller model.

    Args:
        lines: the text to train on.
        vocab_size: requested number of pieces, including special tokens and 256 bytes.

    Raises:
        InputError: there is no text.
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
