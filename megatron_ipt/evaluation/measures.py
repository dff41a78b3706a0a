"""Measurements of one exported model: losses on held-out text, answers to questions.

Prepared once and applied to every checkpoint of a run, so that all points of a curve are comparable.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_ipt.corpus.reading import open_rejects, read_documents
from megatron_ipt.errors import InputError
from megatron_ipt.evaluation import questions
from megatron_ipt.evaluation.config import EvaluationConfig
from megatron_ipt.evaluation.held_out import first_tokens, tokens_of, training_frequencies, unigram_entropy
from megatron_ipt.evaluation.in_context import questions as in_context
from megatron_ipt.evaluation.language_model import LanguageModel
from megatron_ipt.evaluation.masked import masked_loss, masked_targets
from megatron_ipt.files import read_json
from megatron_ipt.tokens.dataset.description import DATASET

logger = logging.getLogger(__name__)

_FREQUENCY_TOKENS = 100_000_000


class Measures:
    """Held-out sets of a run, and the texts and questions that its recipe names.

    Args:
        config: section ``evaluation``.
        tokens: folder of the stage ``tokens`` or ``tuning``.
        seq_length: tokens per training sequence.
        isolated: packed sequences of a row did not attend to each other in training.

    Attributes:
        dataset: ``dataset.json`` of ``tokens``.
        held_out: its non-empty validation sets by name.
    """

    def __init__(self, config: EvaluationConfig, tokens: Path, seq_length: int, isolated: bool):
        self._config = config
        self._tokens = tokens
        self._seq_length = seq_length
        self._isolated = isolated
        self._frequencies: npt.NDArray[np.float64] | None = None
        self._questions = {name: questions.read_questions(path) for name, path in config.questions.items()}
        self._tasks = {}
        if config.in_context.mode != "none":
            template = config.in_context.template
            self._tasks = {
                name: in_context.read_task(f"evaluation {name}", group, config.in_context.files[name], template)
                for name, group in self._questions.items()
            }
        self.dataset: dict[str, Any] = read_json(tokens / DATASET)
        self.held_out = {entry["name"]: entry for entry in self.dataset["valid"] if entry["tokens"] > 1}
        if not self.held_out:
            logger.warning(
                "evaluation: no held-out data, so no perplexity is measured; set valid_share in the section that "
                "reads the data to hold some out"
            )

    def run(self, model: LanguageModel, directory: Path) -> dict[str, Any]:
        """Measures ``model``; records of a text that cannot be read go to ``rejects-NAME.jsonl`` in ``directory``.

        Returns:
            ``{perplexity, questions}``, each by name: losses with the unigram entropy of the same tokens, and results
            of :func:`.questions.measure` (with demonstrations, of :func:`.in_context.questions.measure`).
        """
        perplexity = {name: self._held_out(model, name, entry) for name, entry in self.held_out.items()}
        for name in self._config.texts:
            perplexity[name] = self._loss(model, name, self._tokens_of_text(name, model, directory))
        answers = {name: self._answers(model, name) for name in self._questions}
        return {"perplexity": perplexity, "questions": answers}

    def _answers(self, model: LanguageModel, name: str) -> dict[str, Any]:
        tokens = self._config.answer_tokens
        if name in self._tasks:
            return in_context.measure(model, self._tasks[name], self._config.in_context, tokens)
        return questions.measure(model, self._questions[name], self._seq_length, f"evaluation {name}", tokens)

    def _tokens_of_text(self, name: str, model: LanguageModel, directory: Path) -> npt.NDArray[np.int64]:
        path, key = self._config.texts[name], f"evaluation.texts.{name}"
        options = self._config.read.options("evaluation.read")
        with open_rejects(directory / f"rejects-{name}.jsonl", options) as rejects:
            documents = read_documents([path], options, rejects, key)
            ids = tokens_of(documents, model.tokenizer, self._config.perplexity_tokens)
        if len(ids) < 2:
            raise InputError(f"{key}: {path}: contains no text")
        return ids

    def _held_out(self, model: LanguageModel, name: str, entry: dict[str, Any]) -> dict[str, Any]:
        limit = self._config.perplexity_tokens
        if "loss_mask" not in entry:
            return self._loss(model, name, first_tokens(self._tokens, entry, limit))
        from megatron_ipt.tuning.rows import RowReader

        rows = RowReader(self._tokens / entry["prefix"], self._tokens / entry["loss_mask"])
        return {
            **masked_loss(model, rows, limit, self._isolated, f"evaluation {name}"),
            "unigram_entropy": self._entropy(masked_targets(rows, limit)),
        }

    def _loss(self, model: LanguageModel, name: str, ids: npt.NDArray[np.int64]) -> dict[str, Any]:
        figures = model.loss(ids, self._seq_length, f"evaluation {name}")
        return {**figures, "unigram_entropy": self._entropy(ids[1:])}

    def _entropy(self, ids: npt.NDArray[np.int64]) -> float:
        if self._frequencies is None:
            self._frequencies = training_frequencies(
                self._tokens, self.dataset["train"], self.dataset["vocab_size"], _FREQUENCY_TOKENS
            )
        return unigram_entropy(ids, self._frequencies)
