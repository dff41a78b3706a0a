"""Recipe section ``composition``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from megatron_ipt.config import key
from megatron_ipt.errors import did_you_mean
from megatron_ipt.inference.config import MegatronConfig, OpenAIConfig, TensorRTConfig, TransformersConfig
from megatron_ipt.inference.engines import ENGINES
from megatron_ipt.selection.config import ScorerGeneration

POOLINGS = ("auto", "mean", "cls", "max")
METRICS = ("dot", "l2")
ORDERS = ("nearest_last", "shuffled")


def _engines() -> list[str]:
    return [name for name, row in ENGINES.items() if row.scores]


@dataclass
class EncoderConfig:
    model: str = key("", "Hugging Face folder of a sentence encoder. Empty: no such stage.")
    pooling: str = key(
        "auto",
        "How the last states of a text become one vector: their mean, that of the first token, or the maximum. auto: "
        "what the folder's modules.json says, else the mean.",
        choices=POOLINGS,
    )
    normalize: bool | None = key(
        None, "Scale vectors to length 1. Null: what the folder's modules.json says, else not."
    )
    max_tokens: int | None = key(None, "Tokens of a text that are read. Null: what the folder says.", minimum=8)
    batch_tokens: int = key(8192, "Tokens of a batch, padding included. Moves the last bits of vectors.", minimum=64)
    dtype: str = key("float32", "Of the weights; vectors are float32.", choices=("float32", "bfloat16"))
    device: str = key("auto", "auto: cuda if there is one.", choices=("auto", "cpu", "cuda"), affects_output=False)


@dataclass
class ParagraphConfig:
    tokens: int = key(
        128,
        "Lines are joined while the paragraph stays below this many tokens of the model's tokenizer, two for each line "
        "break included.",
        minimum=4,
    )
    minimum_tokens: int = key(
        16,
        "Shorter paragraphs are left out, such as headings by themselves, whose nearest neighbours are other headings.",
        minimum=0,
    )
    maximum_tokens: int | None = key(500, "Longer paragraphs are left out. Null: none.", minimum=4)


@dataclass
class SearchConfig:
    metric: str = key("dot", "Nearness of vectors: dot product, or Euclidean distance.", choices=METRICS)
    candidates: int = key(
        40, "Neighbours to find for each paragraph; more than are used, because of most_uses.", minimum=1
    )
    near_duplicate: float = key(
        0.95,
        "Paragraphs whose vectors have at least this cosine, with the query or with a nearer neighbour, are no "
        "neighbours: copies make the rest of a context trivial. Above 1: all are.",
        minimum=0,
    )
    same_document: bool = key(False, "Also take neighbours from the query's own document.")
    most_uses: int | None = key(
        40, "Contexts in which a paragraph may occur as a neighbour; the nearest queries get it. Null: any number.",
        minimum=1,
    )  # fmt: skip
    exact_up_to: int = key(
        1_000_000, "Paragraphs up to which the search is exact; beyond, it is approximate (IVF).", minimum=0
    )
    lists: int | None = key(None, "IVF: cells of the index. Null: 4 times the root of the paragraphs.", minimum=1)
    probes: int = key(64, "IVF: cells that are searched for a query.", minimum=1)


@dataclass
class FilterConfig:
    """Which contexts are kept: those whose paragraphs help to predict each other more than random ones do."""

    engine: str = key(
        "transformers",
        f"What runs the model: {', '.join(_engines())}. module:Class or path/to/file.py:Class: a custom engine.",
    )
    generation: ScorerGeneration = key(ScorerGeneration, "Model and tokenizer. Without a model, all contexts are kept.")
    transformers: TransformersConfig = key(TransformersConfig, "Settings of the engine transformers.")
    megatron: MegatronConfig = key(MegatronConfig, "Settings of the engine megatron.")
    openai: OpenAIConfig = key(OpenAIConfig, "Settings of the engine openai.")
    tensorrt_llm: TensorRTConfig = key(TensorRTConfig, "Settings of the engine tensorrt_llm.")
    options: dict[str, Any] = key({}, "Settings of a custom engine.")
    prepend_bos: bool = key(True, "Begin texts with the tokenizer's BOS token, if it has one.")
    control_rows: int = key(
        1000, "Queries that also get a context of random paragraphs and one of copies, for comparison.", minimum=0
    )
    random_pass: float = key(
        0.25,
        "Share of the random contexts that would pass; it sets the threshold, which is never below 0. Contexts "
        "of random paragraphs have a gain too, because any text before a text helps.",
        minimum=0,
        maximum=1,
    )
    minimum_gain: float | None = key(
        None, "The threshold in nats per token, instead of random_pass; the original takes 0."
    )

    def wanted(self) -> bool:
        """Whether contexts are filtered."""
        return bool(self.generation.model) or ":" in self.engine

    def problems(self) -> Iterator[tuple[str, str]]:
        known = _engines()
        if self.engine not in known and ":" not in self.engine:
            yield (
                "engine",
                f"{self.engine!r} is not one of {', '.join(known)}, nor module:Class or path/to/file.py:Class."
                f"{did_you_mean(self.engine, known)}",
            )
        if self.wanted() and not self.control_rows and self.minimum_gain is None:
            yield "control_rows", "is 0, but random contexts set the threshold; raise it, or set minimum_gain"


@dataclass
class CompositionConfig:
    encoder: EncoderConfig = key(EncoderConfig, "What makes vectors of paragraphs.")
    paragraph: ParagraphConfig = key(ParagraphConfig, "How documents are cut up.")
    search: SearchConfig = key(SearchConfig, "Which paragraphs are near each other.")
    filter: FilterConfig = key(FilterConfig, "Which contexts are kept.")
    queries: int | None = key(None, "Paragraphs that get a context, chosen by a hash. Null: all.", minimum=1)
    neighbours: int = key(16, "Most neighbours in a context.", minimum=1)
    paragraph_tokens: int = key(
        256, "Tokens of a paragraph in a context, line break included; longer ones are cut.", minimum=4
    )
    seq_length: int = key(
        1024,
        "A context has fewer tokens than this: the neighbours that fit, nearest first, and the query. As long as "
        "training.data.seq_length, which it sets.",
        minimum=16,
    )
    order: str = key(
        "nearest_last",
        "Order of the neighbours before the query: the nearest beside it (as in the paper), or shuffled (as in "
        "its code).",
        choices=ORDERS,
    )
    share: float = key(
        0.5, "Share of the training tokens in contexts; the rest are full documents. 1: no documents.",
        minimum=0.01, maximum=1,
    )  # fmt: skip

    def wanted(self) -> bool:
        """Whether the recipe has this stage."""
        return bool(self.encoder.model)

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.wanted():
            return
        if self.paragraph_tokens >= self.seq_length:
            yield (
                "paragraph_tokens",
                f"{self.paragraph_tokens} leave no room for a neighbour in seq_length={self.seq_length}",
            )
        if self.search.candidates < self.neighbours:
            yield (
                "search.candidates",
                f"{self.search.candidates} are fewer than neighbours={self.neighbours}; take twice as many",
            )
