"""From a node of the tree to the requests of an engine: which model, in which words, with which settings.

Outlines and questions are asked of one model, answers of the same or another. Conversions to JSON are greedy at the
first try, because they copy, and sampled at later ones, because the first would only fail again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import orjson
import xxhash

from megatron_ipt.inference.config import GenerationConfig
from megatron_ipt.inference.engine import Completion, Engine, Prompt, Request, RequestRefused
from megatron_ipt.inference.rendering import Messages, Rendered, Rendering, Wanted, joined, message
from megatron_ipt.inference.sampling import Sampling
from megatron_ipt.inference.segments import check_tokens, generate_until_enough
from megatron_ipt.inference.settings import EngineSettings
from megatron_ipt.inference.tokenizer import ByteTokenizer, PromptTokenizer
from megatron_ipt.seeding import derive
from megatron_ipt.synthesis.from_taxonomy.journal import Reply
from megatron_ipt.synthesis.from_taxonomy.outline.prompts import ANSWER, Prompts

LISTS, SUBJECTS, SYLLABI, SESSIONS, QUESTIONS, ANSWERS = LEVELS = (
    "lists of subjects", "subjects as JSON", "syllabi", "sessions as JSON", "questions", "answers",
)  # fmt: skip
"""Of the tree, each one call per node or try."""

TOO_LONG = "prompt longer than the context"
_MOST_TURNS = 4
_BYTES_PER_TOKEN = 3.0
"""Of models whose tokenizer is not here; English has more."""
_LOOP_TIMES, _LOOP_CHARACTERS, _LONGEST_LOOP = 4, 160, 300
"""An answer is in a loop when it ends with the same stretch so many times, in all at least so many characters; the last
is the longest stretch that is looked for."""


@dataclass(frozen=True)
class Call:
    """One thing to ask.

    Attributes:
        id: path in the tree.
        level: one of ``LEVELS``.
        prompt: name in :mod:`.prompts`.
        values: fill its slots.
        earlier: prompt and answer of an earlier turn, with the values of that prompt.
        attempt: from 1 on, of a conversion.
        group: calls with the same group have the beginning of the prompt in common.
    """

    id: str
    level: str
    prompt: str
    values: Mapping[str, str]
    earlier: tuple[str, str] | None = None
    attempt: int = 1
    group: str = ""

    @property
    def converts(self) -> bool:
        return self.earlier is not None

    @property
    def asked(self) -> int:
        """Hash of what is asked."""
        content = [self.prompt, dict(self.values), self.earlier, self.attempt]
        return xxhash.xxh3_64_intdigest(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)) >> 1


class Asker:
    """Makes prompts for one model and sends them.

    Args:
        engine: entered before the first call.
        maker: of its prompts.
        seed: of the recipe.
    """

    def __init__(self, engine: Engine, maker: PromptMaker, seed: int):
        self.engine = engine
        self._maker = maker
        self._seed = seed
        self._check_tokens = check_tokens(engine)

    async def ask(self, call: Call, chain: int) -> Reply:
        """The reply to ``call``.

        Args:
            chain: of the requests with the same beginning.

        Raises:
            EngineError: the engine cannot continue.
        """
        made = self._maker.prompt(call)
        if not self._maker.fits(made):
            return Reply(unasked=TOO_LONG)
        seed = derive(self._seed, "taxonomy", call.id) % (1 << 31)
        request = Request(made, self._maker.sampling(call), chain, seed)
        if self._check_tokens:
            request = replace(request, enough=loops, check_tokens=self._check_tokens)
        try:
            completion = await generate_until_enough(self.engine, request)
        except RequestRefused as refusal:
            return Reply(refused=str(refusal) or "refused")
        return _reply(completion)


class PromptMaker:
    """Prompts and sampling settings for one model.

    Args:
        settings: of its engine.
        generation: limits and sampling, which need not be those of the settings.
        tokenizer: of the model.
        prompts: what to ask.

    Raises:
        InputError: the model has no chat template, or it fails.
    """

    def __init__(
        self, settings: EngineSettings, generation: GenerationConfig, tokenizer: PromptTokenizer, prompts: Prompts
    ):
        self._prompts = prompts
        self._rendering: Rendering = (
            Messages(tokenizer, prompts.variables, _MOST_TURNS)
            if settings.chats
            else Rendered(tokenizer, prompts.variables, True, Wanted(settings.key("generation.model"), "synthesis"))
        )
        # Without a tokenizer, ids are bytes.
        self._ids_per_token = _BYTES_PER_TOKEN if isinstance(tokenizer, ByteTokenizer) else 1.0
        self._limit = generation.context_length - generation.max_new_tokens - self._rendering.extra_tokens
        self._sampled = replace(Sampling.of(generation), stop_ids=self._rendering.stop_ids)
        self._greedy = replace(self._sampled, temperature=0.0, top_p=1.0, top_k=None, min_p=None)

    def prompt(self, call: Call) -> Prompt:
        """The prompt of a call."""
        quoted = {name: self._rendering.neutralise(value) for name, value in call.values.items()}
        system, user = self._prompts.texts[call.prompt].fill(quoted)
        turns = [message("user", user)]
        if call.earlier is not None:
            before, answer = call.earlier
            system, first = self._prompts.texts[before].fill(quoted)
            turns = [message("user", first), message("assistant", self._rendering.neutralise(answer)), *turns]
        (made,) = self._rendering.prompts([joined(system, turns, self._rendering)])
        return made

    def fits(self, prompt: Prompt) -> bool:
        """Whether prompt and longest answer fit the context."""
        return len(prompt.ids) / self._ids_per_token <= self._limit

    def count(self, call: Call) -> int:
        """Tokens of the prompt of a call, with what the engine adds to it."""
        return round(len(self.prompt(call).ids) / self._ids_per_token)

    def sampling(self, call: Call) -> Sampling:
        """How the answer to a call is decoded."""
        return self._greedy if call.converts and call.attempt == 1 else self._sampled


def loops(text: str) -> bool:
    """Whether an answer ends in saying the same again and again."""
    text = text.rstrip()
    for length in range(1, _LONGEST_LOOP + 1):
        times = max(_LOOP_TIMES, -(-_LOOP_CHARACTERS // length))
        if length * times > len(text):
            return False
        if text.endswith(text[-length:] * times):
            return True
    return False


def of_answers(call: Call) -> bool:
    """Whether the model of the answers is asked."""
    return call.prompt == ANSWER


def _reply(completion: Completion) -> Reply:
    generated = completion.generated_tokens
    return Reply(
        completion.text,
        completion.finished and not completion.enough,
        completion.enough,
        "",
        "",
        completion.prompt_tokens,
        completion.cached_tokens,
        len(completion.ids) if generated is None else generated,
    )
