"""Recipe section ``tokens``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

from megatron_ipt.config import key
from megatron_ipt.corpus.config import CorpusConfig, ReadOverrides, like_corpus, problems_of_domains
from megatron_ipt.files import is_file_name

ENGINES = ("auto", "gigatoken", "sentencepiece", "tokenizers")

BUILT_IN_SOURCES = ("augmented", "raw")
"""Sources that earlier stages provide."""


@dataclass
class TokenizerConfig:
    kind: str = key(
        "train",
        "train: a SentencePiece BPE model is trained on the training documents; sentencepiece: path is a .model file; "
        "huggingface: path is a folder with tokenizer.json.",
        choices=("train", "sentencepiece", "huggingface"),
    )
    path: str = key("", "Tokenizer to use, for the kinds sentencepiece and huggingface.")
    eod_token: str | None = key(
        None,
        "huggingface: token that ends a document and, later, a generation. By default the tokenizer's eos_token, which "
        "for many chat models ends a message (<|im_end|>); their documents were separated by another, e.g. "
        "<|endoftext|>.",
    )
    bos_token: str | None = key(
        None,
        "huggingface: token that begins a document. By default the tokenizer's bos_token, which for some chat models "
        "begins a message (<|im_start|>).",
    )
    vocab_size: int = key(4096, "Pieces of a trained tokenizer, special tokens included.", minimum=300, maximum=1 << 20)
    engine: str = key(
        "auto",
        "Library that encodes: the tokenizer's native one (sentencepiece for .model files, tokenizers for "
        "tokenizer.json), or gigatoken, which is several times as fast. auto: gigatoken if it is installed and gives "
        "the same ids on adversarial texts.",
        choices=ENGINES,
        affects_output=False,
    )
    training_characters: int = key(
        50_000_000, "A tokenizer is trained on a hash-chosen sample of about this many characters.", minimum=1000
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.kind != "train" and not self.path:
            yield "path", f"required when kind is {self.kind}"
        if self.kind == "train" and self.path:
            yield "path", "is set, but kind is train; set kind to sentencepiece or huggingface to use it"
        for name in ("eod_token", "bos_token"):
            if getattr(self, name) is not None and self.kind != "huggingface":
                yield name, f"can be chosen only for kind huggingface; kind is {self.kind}"


@dataclass
class _SourceKeys:
    """The first keys of a source."""

    inputs: list[str] = key(
        [], "Files or folders of documents, read like corpus.inputs; empty for the built-in sources augmented and raw."
    )
    share: float | None = key(
        None, "Share of the training tokens. Null for all sources: every source is used in full.", minimum=0, maximum=1
    )
    repeat: int = key(1, "Number of times that every training document of this source occurs.", minimum=1)
    valid_share: float | None = like_corpus("valid_share")
    test_share: float | None = like_corpus("test_share")


@dataclass
class SourceConfig(ReadOverrides, _SourceKeys):
    """A source of documents: built in, or read from files like the corpus except for the keys given here."""

    domain_key: str | None = like_corpus("domain_key")
    domains: dict[str, list[str]] = key({}, "Domains by input, as corpus.domains.")

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.inputs:
            for field in fields(self):
                if field.name not in ("inputs", "share", "repeat") and getattr(self, field.name) not in (None, {}):
                    yield field.name, "applies to the files of a source, but inputs is empty"
        if sum(self.held_out_shares()) >= 1:
            yield "valid_share", "valid_share and test_share together leave nothing to train on"
        yield from problems_of_domains(self.domains)

    def held_out_shares(self) -> tuple[float, float]:
        """Shares of the documents for validation and for a final test."""
        default = CorpusConfig()
        valid = default.valid_share if self.valid_share is None else self.valid_share
        return valid, default.test_share if self.test_share is None else self.test_share


@dataclass
class TokensConfig:
    tokenizer: TokenizerConfig = key(TokenizerConfig, "Tokenizer of the model.")
    sources: dict[str, SourceConfig] = key(
        {"augmented": SourceConfig(), "raw": SourceConfig()},
        "What to train on, by name. With shares, the mix ends when the first source runs out; the remaining documents "
        "are counted.",
    )
    mix: str = key(
        "interleave",
        "interleave: one training dataset in which the shares hold everywhere; separate: one dataset per source, with "
        "weights for a blend.",
        choices=("interleave", "separate"),
    )
    append_eod: bool = key(True, "End every document with the end-of-document token.")
    prepend_bos: bool = key(True, "Begin every document with the beginning-of-sequence token.")
    dtype: str = key(
        "auto",
        "Data type of the ids in .bin. auto: uint16 if the vocabulary fits, else int32, as in Megatron.",
        choices=("auto", "uint16", "int32"),
    )
    workers: int = key(1, "Processes that tokenize shards.", minimum=1, affects_output=False)

    def begins(self) -> bool:
        """Whether a source names files of its own, so that no corpus is needed."""
        return any(source.inputs for source in self.sources.values())

    def inherit(self, corpus: CorpusConfig) -> TokensConfig:
        """A copy in which sources of files take from ``corpus`` what they leave empty."""
        sources = {name: source.inherit(corpus) if source.inputs else source for name, source in self.sources.items()}
        return replace(self, sources=sources)

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.sources:
            yield "sources", "is empty; name at least one source"
        for name, source in self.sources.items():
            if not is_file_name(name):
                yield f"sources.{name}", "the name becomes part of file names; use letters, digits, - and _"
            if not source.inputs and name not in BUILT_IN_SOURCES:
                yield f"sources.{name}.inputs", "required; only augmented and raw come from earlier stages"
        shares = [source.share for source in self.sources.values()]
        if any(share is not None for share in shares):
            if any(share is None for share in shares):
                yield "sources", "give a share to every source or to none"
            elif abs(sum(share for share in shares if share is not None) - 1) > 1e-6:
                yield "sources", f"shares add up to {sum(filter(None, shares)):g}, not 1"
