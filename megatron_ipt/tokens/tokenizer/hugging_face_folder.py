"""Tokenizers published as a Hugging Face folder with ``tokenizer.json``."""

from __future__ import annotations

import json
import shutil
from functools import cached_property
from pathlib import Path

from megatron_ipt.errors import InputError
from megatron_ipt.files import read_json
from megatron_ipt.tokenizer_readers import read_tokenizer_json, special_tokens
from megatron_ipt.tokens.tokenizer.encoders import Encoder, Ids, TokenizersEncoder
from megatron_ipt.tokens.tokenizer.transformers_files import TOKENIZER_FILES


class HuggingFaceTokenizer:
    """A folder with ``tokenizer.json``, used as published through the tokenizers library.

    Args:
        folder: of the tokenizer.
        eod_token: ends a document; by default its ``eos_token``, else its ``sep_token``.
        bos_token: begins a document; by default its ``bos_token``.

    Raises:
        InputError: the folder has no such file, a token is not in the vocabulary, or none ends a document.
    """

    def __init__(self, folder: str | Path, eod_token: str | None = None, bos_token: str | None = None):
        self.folder = Path(folder)
        file = self.folder / "tokenizer.json"
        if not file.is_file():
            raise InputError(f"{file}: not found; tokens.tokenizer.path must be a folder that contains tokenizer.json")
        self._tokenizer = read_tokenizer_json(file)
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocabulary.values()) + 1
        self.size = len(vocabulary)
        configuration = self.folder / "tokenizer_config.json"
        self._chosen = {
            name: token for name, token in (("eos_token", eod_token), ("bos_token", bos_token)) if token is not None
        }
        for name, token in self._chosen.items():
            if token not in vocabulary:
                key = "eod_token" if name == "eos_token" else name
                raise InputError(f"tokenizer.{key}: {token!r} is not in the vocabulary of {file}")
        ids = {name: vocabulary.get(token) for name, token in {**special_tokens(self.folder), **self._chosen}.items()}
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
        self.encoder: Encoder = TokenizersEncoder(self._tokenizer)

    @cached_property
    def control_tokens(self) -> list[str]:
        return [token.content for token in self._tokenizer.get_added_tokens_decoder().values()]

    def template(self) -> tuple[list[int], list[int]]:
        """Ids that the published tokenizer puts before and after every text (its post-processor)."""
        encoding = self._tokenizer.encode("a", add_special_tokens=True)
        mask = encoding.special_tokens_mask
        first, last = mask.index(0), len(mask) - mask[::-1].index(0)
        return encoding.ids[:first], encoding.ids[last:]

    def encode(self, texts: list[str]) -> list[Ids]:
        return self.encoder.encode(texts)

    def decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False))

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name in TOKENIZER_FILES:
            if (self.folder / name).is_file():
                shutil.copyfile(self.folder / name, folder / name)
        if self._chosen:
            # Everything later (export, evaluation, other tools) reads the chosen tokens from here.
            configuration, named = folder / "tokenizer_config.json", folder / "special_tokens_map.json"
            for file in (configuration, *([named] if named.is_file() else [])):
                content = read_json(file) if file.is_file() else {}
                file.write_text(json.dumps({**content, **self._chosen}, indent=2) + "\n")
