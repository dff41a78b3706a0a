"""Recipe section ``fitting``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from megatron_ipt.config import key
from megatron_ipt.selection.pds.fit import FitSettings


@dataclass
class FittingConfig:
    trunk: str = key(
        "",
        "Hugging Face folder of the model that reads the documents; its last hidden states are averaged over their "
        "tokens. Empty: no such stage.",
    )
    tokenizer: str = key("", "Folder or file of the tokenizer; by default that of the trunk.")
    learn: str = key(
        "score",
        "What the scorer learns to predict: score, what more of a document would have done for the target; weight, "
        "what the outer steps of the proxy run made of it.",
        choices=("score", "weight"),
    )
    train_trunk: bool = key(
        True, "Train the whole model; otherwise only the linear head, on hidden states that are computed once."
    )
    epochs: int = key(FitSettings.epochs, "Passes over the documents.", minimum=1)
    learning_rate: float = key(FitSettings.learning_rate, "Of AdamW, constant. A head alone takes 1e-2 or so.")
    batch_documents: int = key(FitSettings.rows_per_batch, "Documents per optimizer step.", minimum=1)
    held_out: float = key(
        FitSettings.held_out,
        "Share of the documents, by hash of their id, by which the scorer is judged. It is refused unless it orders "
        "them better than chance.",
        minimum=0,
        maximum=1,
    )
    seq_length: int = key(1024, "Tokens of a document; the rest is left out.", minimum=1)
    prepend_bos: bool = key(True, "Begin every document with the tokenizer's BOS token, if it has one.")
    append_eod: bool = key(True, "End every document with the tokenizer's EOS token.")
    device: str = key(
        "auto", "auto: the first GPU if there is one, else the CPU; or a torch device.", affects_output=False
    )

    def wanted(self) -> bool:
        """Whether the recipe has this stage."""
        return bool(self.trunk)

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.learning_rate > 0:
            yield "learning_rate", f"{self.learning_rate:g} is not above 0"
        if not 0 < self.held_out < 1:
            yield "held_out", f"{self.held_out:g} is not between 0 and 1; documents are needed on both sides"

    @property
    def tokenizer_path(self) -> str:
        """Folder or file of the tokenizer."""
        return self.tokenizer or self.trunk

    def settings(self, seed: int) -> FitSettings:
        """For :func:`~megatron_ipt.selection.pds.fit.fit_scorer`."""
        return FitSettings(self.epochs, self.learning_rate, self.batch_documents, self.held_out, seed)
