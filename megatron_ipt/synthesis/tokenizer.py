"""The one tokenizer of all prompts, pinned to its published files.

Engines and loaders disagree about the ids of one and the same text (a BOS added twice, ``▁`` before the first word or
not), so ids are made here, once, and sent as ids wherever the engine takes them. ``tokenizer.json`` is read by the
tokenizers library exactly as published, never rebuilt from its vocabulary. Text is text: a literal ``</s>`` in a corpus
does not become the control token.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from megatron_ipt.errors import InputError
from megatron_ipt.files import read_json

_KEY = "synthesis.generation.tokenizer"


class PromptTokenizer(Protocol):
    """Text to ids and back.

    Attributes:
        path: the file it was read from.
        bos, eos: control tokens as a server writes them in text; ``bos`` is empty where there is none.
        bos_id, eos_id: their ids; ``bos_id`` is None where there is none.
        control_tokens: every control token as text.
    """

    path: Path
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


def find_tokenizer(path: str | Path) -> Path:
    """The tokenizer file that ``path`` means: itself, or in a folder ``tokenizer.json``, else ``tokenizer.model``.

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
        f"{_KEY}: no tokenizer at {path} (looked for {looked}). Give a folder with tokenizer.json or tokenizer.model, "
        "or one of these files. It must be the tokenizer of the model that generates."
    )


def open_prompt_tokenizer(path: str | Path) -> PromptTokenizer:
    """Reads the tokenizer in a folder or file.

    Raises:
        InputError: there is none, or it names no end-of-sequence token.
    """
    file = find_tokenizer(path)
    return _SentencePiece(file) if file.suffix == ".model" else _TokenizerJson(file)


class _TokenizerJson:
    def __init__(self, path: Path):
        import tokenizers

        self.path = path
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise InputError(f"{path}: not a tokenizer that the tokenizers library loads: {error}") from error
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        added = self._tokenizer.get_added_tokens_decoder()
        self.control_tokens = tuple(token.content for token in added.values() if token.special)
        self.bos, self.bos_id = self._named("bos_token")
        self.eos, eos_id = self._named("eos_token")
        if eos_id is None:
            raise InputError(
                f"{path.parent / 'tokenizer_config.json'}: names no eos_token of the vocabulary. It marks the end of "
                "an answer; add the key eos_token."
            )
        self.eos_id = eos_id

    def _named(self, name: str) -> tuple[str, int | None]:
        for file in ("tokenizer_config.json", "special_tokens_map.json"):
            if (self.path.parent / file).is_file():
                token: Any = read_json(self.path.parent / file).get(name)
                content = token.get("content") if isinstance(token, dict) else token
                if isinstance(content, str):
                    return content, self._tokenizer.token_to_id(content)
        return "", None

    def encode(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))


class _SentencePiece:
    def __init__(self, path: Path):
        import sentencepiece

        self.path = path
        try:
            processor = sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes())
        except RuntimeError as error:
            raise InputError(f"{path}: not a SentencePiece model: {error}") from error
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
