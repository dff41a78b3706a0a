"""Recipe section ``proxy``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from megatron_ipt.config import key
from megatron_ipt.corpus.config import CorpusConfig, ReadOverrides
from megatron_ipt.selection.pds.central_differences import RELATIVE_STEP

DERIVATIVES = ("forward_mode", "central_differences")


@dataclass
class ProxyConfig:
    starts: list[str] = key(
        [],
        "Hugging Face folders of the model that the run starts from; scores are averaged over them. Take several "
        "checkpoints of one small model (megatron-ipt export-checkpoint). Empty: no such stage.",
    )
    tokenizer: str = key("", "Folder or file of the tokenizer; by default that of the first starting point.")
    target: list[str] = key(
        [],
        "Files, folders or glob patterns of the texts that a model is to become good at. None of them may occur in the "
        "corpus, held-out documents included.",
    )
    evaluated_on: list[str] = key(
        [],
        "Files, folders or glob patterns of texts that models are evaluated on: an error if a target text is one of "
        "them.",
        affects_output=False,
    )
    trained_on: str = key(
        "",
        "Folder of the stage corpus of the run that trained the starting points. Documents in it must not be scored; "
        "empty does not check.",
        affects_output=False,
    )
    read: ReadOverrides = key(ReadOverrides, "How the files of texts are read.")
    documents: int = key(2048, "Training documents that are scored, a draw from the corpus.", minimum=2)
    seq_length: int = key(1024, "Input tokens of a document or target text; the rest is left out.", minimum=1)
    prepend_bos: bool = key(True, "Begin every text with the tokenizer's BOS token, if it has one.")
    append_eod: bool = key(True, "End every text with the tokenizer's EOS token, which is predicted as well.")
    steps: int = key(100, "Steps of the run.", minimum=1)
    learning_rate: float = key(
        0.008, "Of plain gradient descent, without momentum, schedule or clipping, since scores hold for that alone."
    )
    batch_documents: int | None = key(
        256, "Of the scored documents that each step trains on; null for all of them in every step.", minimum=1
    )
    score_every: int = key(10, "Steps between those at which documents are scored.", minimum=1)
    outer_steps: int = key(
        1,
        "Times that the weights of documents are improved by their scores and the run repeated. The paper's 1: taken "
        "to its end, all weight goes to a few documents. More than 1 needs batch_documents=null.",
        minimum=1,
    )
    outer_step_size: float = key(
        1.0,
        "How far an outer step goes before weights are projected on the simplex: a score of one standard deviation "
        "above the mean adds this many times the weight that all documents began with.",
    )
    derivatives: str = key(
        "forward_mode",
        "forward_mode: exact, with eager attention. central_differences: from losses and gradients at two points, with "
        "any attention, also fused.",
        choices=DERIVATIVES,
    )
    relative_step: float = key(
        RELATIVE_STEP,
        "central_differences: length of the step as a share of the norm of the parameters. It is checked against a "
        "third of it before the run.",
    )
    relative_step_tolerance: float = key(
        0.05,
        "central_differences: the most by which derivatives with a third of the step may differ, as a share.",
        minimum=0,
    )
    dtype: str = key("float32", "Data type of parameters and arithmetic.", choices=("float32", "float64"))
    device: str = key(
        "auto", "auto: GPUs if there are any, else the CPU; or cpu, or cuda.", choices=("auto", "cpu", "cuda"),
        affects_output=False,
    )  # fmt: skip
    ranks: int = key(
        1, "Processes that share the documents of each step, each on a GPU of its own if it uses one.", minimum=1,
        affects_output=False,
    )  # fmt: skip
    micro_batch_documents: int = key(16, "Documents computed at once.", minimum=1, affects_output=False)
    workers: int = key(1, "Processes that read the corpus.", minimum=1, affects_output=False)

    def wanted(self) -> bool:
        """Whether the recipe has this stage."""
        return bool(self.starts)

    def inherit(self, corpus: CorpusConfig) -> ProxyConfig:
        """A copy that reads files as the corpus is read, where it does not say otherwise."""
        return replace(self, read=self.read.inherit(corpus))

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.wanted():
            return
        if not self.target:
            yield "target", "required: texts that a model is to become good at"
        for name in ("learning_rate", "outer_step_size", "relative_step"):
            if not getattr(self, name) > 0:
                yield name, f"{getattr(self, name):g} is not above 0"
        if len(set(self.starts)) < len(self.starts):
            yield "starts", "names the same folder twice, which would count double"
        if self.batch_documents is not None and self.batch_documents > self.documents:
            yield (
                "batch_documents",
                f"{self.batch_documents} is more than documents={self.documents}, of which each step takes some",
            )
        if self.outer_steps > 1 and self.batch_documents is not None:
            yield (
                "outer_steps",
                f"{self.outer_steps} needs batch_documents=null: weights add up to 1 over all documents, not those "
                "of a single step",
            )

    @property
    def tokenizer_path(self) -> str:
        """Folder or file of the tokenizer."""
        return self.tokenizer or self.starts[0]
