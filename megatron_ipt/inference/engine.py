"""The interface of an engine: a language model that continues prompts, scores texts, or both.

An engine is an asynchronous context: entering it loads a model or connects to servers. Any number of tasks may then
await ``generate`` and ``score`` at the same time, and the engine batches them. It takes and returns token ids, and
knows nothing of documents, pairs or shards.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from megatron_ipt.errors import InputError, RecipeError, StageError
from megatron_ipt.inference.chat_template import Message
from megatron_ipt.inference.sampling import Sampling
from megatron_ipt.inference.scoring import Score, ScoreRequest
from megatron_ipt.inference.settings import EngineSettings
from megatron_ipt.inference.tokenizer import PromptTokenizer
from megatron_ipt.inference.usage import Meter


@dataclass(frozen=True)
class Prompt:
    """What an engine continues.

    Attributes:
        ids: token ids, with BOS where the model wants one.
        text: the same for engines that take only strings: control tokens written out, without the first BOS, which
            such engines add.
        messages: the same as a chat, for engines that apply the model's chat template themselves; empty where the
            prompt is no chat.
        template_variables: of the chat template, for such engines.
    """

    ids: list[int]
    text: str
    messages: tuple[Message, ...] = ()
    template_variables: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """One prompt to continue.

    Attributes:
        prompt: ids and text.
        sampling: how to decode; equal objects may share a batch.
        chain: requests with the same number share a prefix and should meet the same cache.
        seed: of this request's random choices, where ``sampling`` has a temperature; below 2**31.
        enough: given the text of the answer so far, whether to stop; asked every ``check_tokens`` generated tokens and
            at the token limit. For engines with :attr:`Engine.checks_answers`; see :mod:`.segments` for the others.
    """

    prompt: Prompt
    sampling: Sampling
    chain: int = 0
    seed: int = 0
    enough: Callable[[str], bool] | None = field(default=None, compare=False)
    check_tokens: int = 32


@dataclass(frozen=True)
class Completion:
    """What was generated.

    Attributes:
        ids: without EOS and stop ids. Where a stop string ended the answer, the ids before it.
        text: of the answer, without control tokens and stop strings.
        finished: False when the token limit ended it.
        prompt_tokens: as the engine counted them.
        generated_tokens: as the engine counted them, end mark and what follows a stop string included: what a provider
            bills. None where the engine does not say.
        cached_tokens: of the prompt, read from the engine's prefix cache.
        enough: ``enough`` of the request ended it, which counts as finished.
    """

    ids: list[int]
    text: str
    finished: bool
    prompt_tokens: int
    generated_tokens: int | None = None
    cached_tokens: int = 0
    enough: bool = False


class EngineError(StageError):
    """The engine cannot continue. Finished work is kept; a rerun resumes it."""


class RequestRefused(Exception):
    """The engine does not answer this one request; others may be fine."""


class Engine:
    """Base class of all engines. A subclass implements ``generate``, ``score`` or both.

    Args:
        settings: which model, and how the engine is set up.
        tokenizer: that made the ids.

    Attributes:
        window: requests in flight that keep the engine busy, unless the recipe says otherwise.
        score_window: the same for scores.
        meters: whether it tells its ``meter`` of every request that it sends. Requests of others are counted for them,
            one for each call.
        meter: counts requests.
        checks_answers: whether ``generate`` honours ``enough`` of a request.
        takes_stop_strings: whether it honours ``stop`` of a request's sampling.
        tuned: key of the recipe that decides how much the engine does at a time.
    """

    window = 64
    score_window = 64
    meters = False
    checks_answers = False
    takes_stop_strings = True
    tuned = "generation.window"

    def __init__(self, settings: EngineSettings, tokenizer: PromptTokenizer):
        self.settings = settings
        self.tokenizer = tokenizer
        self.meter = Meter()

    async def __aenter__(self) -> Engine:
        return self

    async def __aexit__(self, *exception: object) -> None:
        return None

    async def generate(self, request: Request) -> Completion:
        """Continues the prompt until EOS, a stop id or string, or ``max_new_tokens``.

        Raises:
            RequestRefused: only this request cannot be answered.
            RecipeError: the engine does not generate, or cannot do what ``request.sampling`` asks for.
            EngineError: the engine cannot continue.
        """
        raise self._cannot("generate")

    async def score(self, request: ScoreRequest) -> Score:
        """The log-likelihood of the counted tokens of a text, summed.

        Raises:
            RequestRefused: only this request cannot be answered.
            InputError: the text is longer than :attr:`longest_score`.
            RecipeError: the engine, or the server behind it, does not score.
            EngineError: the engine cannot continue.
        """
        raise self._cannot("score")

    @classmethod
    def generates(cls) -> bool:
        """Whether the class implements ``generate``."""
        return cls.generate is not Engine.generate

    @classmethod
    def scores(cls) -> bool:
        """Whether the class implements ``score``."""
        return cls.score is not Engine.score

    def continues(self, request: Request) -> bool:
        """Whether an answer may be generated in several requests, each prompted with the ids generated so far.

        That takes prompts as ids, generated ids as the model chose them, and an answer that no schema constrains.
        """
        return False

    @property
    def longest_score(self) -> int:
        """Most tokens of a text that ``score`` takes, BOS included."""
        return self.settings.generation.context_length

    def release(self, chain: int) -> None:
        """No further request of ``chain`` will come; most engines need not know."""

    @property
    def load(self) -> int:
        """Value of the key ``tuned`` where the recipe does not say otherwise."""
        return self.window

    def set_load(self, value: int) -> int:
        """Sets the key ``tuned`` while the engine runs; returns how many requests should then be in flight."""
        return value

    def figures(self) -> dict[str, float]:
        """Further figures for the metrics file, e.g. retries so far."""
        return {}

    def completion(
        self,
        ids: list[int],
        finished: bool,
        prompt_tokens: int,
        text: str | None = None,
        sampling: Sampling | None = None,
    ) -> Completion:
        """A completion of generated ``ids``, cut where the answer ends.

        Args:
            ids: may run on after EOS or a stop id.
            finished: False when the token limit ended generation.
            prompt_tokens: as the engine counted them.
            text: of the answer, where the engine decoded it.
            sampling: of the request: its stop ids and strings end the answer as EOS does.
        """
        ends = {self.tokenizer.eos_id, *(sampling.stop_ids if sampling else ())}
        found = [ids.index(end) for end in ends if end in ids]
        generated = min(found) + 1 if found else len(ids)
        if found:
            ids, finished = ids[: min(found)], True
        if text is None:
            text = self.tokenizer.decode(ids)
        places = [place for stop in (sampling.stop if sampling else ()) if (place := text.find(stop)) >= 0]
        if places:
            text, finished = text[: min(places)], True
            ids = self._before(ids, text)
        return Completion(ids, text, finished, prompt_tokens, generated)

    def check_length(self, request: ScoreRequest) -> None:
        """Refuses a text that does not fit the context.

        Raises:
            InputError: names the key.
        """
        if len(request.ids) > self.longest_score:
            raise InputError(
                f"a text of {len(request.ids):,} tokens is longer than the {self.longest_score:,} that "
                f"{self.settings.engine} can score with {self.settings.key('generation.context_length')} = "
                f"{self.settings.generation.context_length:,}. Raise the key, or score the text in windows that "
                "overlap by one token and add up the sums."
            )

    def refuse_control_tokens(self, sampling: Sampling) -> None:
        """Refuses stop strings that could never match, because text is decoded without control tokens.

        Raises:
            RecipeError: names the string.
        """
        for stop in sampling.stop:
            if stop in self.tokenizer.control_tokens:
                raise RecipeError(
                    f"{self.settings.key('generation')}: the stop string {stop!r} is a control token, which never "
                    "appears in decoded text; give its id as a stop id"
                )

    def _before(self, ids: list[int], text: str) -> list[int]:
        """The longest beginning of ``ids`` whose text does not go beyond ``text``."""
        low, high = 0, len(ids)
        while low < high:
            middle = (low + high + 1) // 2
            if len(self.tokenizer.decode(ids[:middle])) <= len(text):
                low = middle
            else:
                high = middle - 1
        return ids[:low]

    def _cannot(self, verb: str) -> RecipeError:
        return RecipeError(f"{self.settings.key('engine')}: the engine {self.settings.engine} does not {verb}")


def load_library(module: str, settings: EngineSettings, install: str) -> Any:
    """Imports a module that only the engine of ``settings`` needs.

    Raises:
        RecipeError: it is not installed or cannot be loaded; says how to install it.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:
        raise RecipeError(
            f"{settings.key('engine')}: {settings.engine} needs the package {module.split('.')[0]}, which cannot be "
            f"imported: {error}. Install it with: {install}"
        ) from error
