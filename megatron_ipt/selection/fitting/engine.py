"""A learned scorer as an engine, so that stage ``scoring`` runs it shard by shard as it runs language models.

What it says of a text takes the place of a log-likelihood per token: it returns the prediction times the number of
counted tokens. The score of a document is then the mean over its windows, each weighted by its tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron_ipt.inference.engine import EngineError
from megatron_ipt.inference.scoring import Score, ScoreRequest
from megatron_ipt.inference.settings import EngineSettings
from megatron_ipt.inference.tokenizer import PromptTokenizer
from megatron_ipt.inference.transformers.engine import TransformersEngine
from megatron_ipt.selection.fitting.learned import load, read_about, texts_of


class LearnedScorer(TransformersEngine):
    """See the module. ``generation.model`` is the folder of the scorer."""

    def __init__(self, settings: EngineSettings, tokenizer: PromptTokenizer):
        super().__init__(settings, tokenizer)
        self._folder = Path(settings.generation.model)
        self._about = read_about(self._folder, settings.key("generation.model"))

    @property
    def longest_score(self) -> int:
        return min(super().longest_score, int(self._about["seq_length"]))

    def _load(self) -> Any:
        device = self._own.device
        if device == "auto":
            device = "cuda" if self._torch.cuda.is_available() else "cpu"
        model = load(self._folder, self.settings.key("generation.model"), self._own.dtype)
        try:
            return model.to(device)
        except RuntimeError as error:
            raise EngineError(f"{self.settings.key('transformers.device')}: {device}: {error}") from error

    def _score(self, requests: list[ScoreRequest]) -> list[Score]:
        device = next(self._model.parameters()).device
        with self._torch.inference_mode():
            found: Sequence[float] = self._model(texts_of([request.ids for request in requests], device)).tolist()
        return [Score(value * len(request.counted), len(request.counted)) for value, request in zip(found, requests)]
