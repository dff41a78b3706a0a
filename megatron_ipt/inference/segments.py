"""Answers that end as soon as they are long enough, from any engine that takes token ids.

An engine that runs in this process looks at the answer while it generates. A server cannot be asked to, so it is asked
for a few tokens at a time: what it has generated so far becomes part of the prompt of the next request, where its
prefix cache finds it. Decoded greedily, the answer is the one that a single request would give, up to rounding.
Sampled, every segment has a seed of its own. Settings that look at the answer alone, such as frequency penalties in
``extra``, begin anew with each segment.
"""

from __future__ import annotations

from dataclasses import replace

from megatron_ipt.errors import RecipeError
from megatron_ipt.inference.engine import Completion, Engine, Prompt, Request
from megatron_ipt.inference.sampling import Sampling
from megatron_ipt.seeding import derive

_CHECK_TOKENS = 32


async def generate_until_enough(engine: Engine, request: Request) -> Completion:
    """:meth:`Engine.generate`, ended by ``request.enough`` where the engine or the prompt allows that.

    Raises:
        UserError, RequestRefused: as :meth:`Engine.generate`.
    """
    if request.enough is None or engine.checks_answers:
        return await engine.generate(request)
    if not engine.continues(request):
        return await engine.generate(replace(request, enough=None))
    return await _in_segments(engine, request)


async def _in_segments(engine: Engine, request: Request) -> Completion:
    assert request.enough is not None
    ids: list[int] = []
    text = ""
    generated: int | None = 0
    first: Completion | None = None
    segments = 0
    while True:
        left = request.sampling.max_new_tokens - len(ids)
        segment = await engine.generate(
            Request(
                Prompt(request.prompt.ids + ids, request.prompt.text + text),
                replace(request.sampling, max_new_tokens=min(request.check_tokens, left)),
                request.chain,
                request.seed if not segments else derive(request.seed, "segment", segments) % (1 << 31),
            )
        )
        first = first or segment
        segments += 1
        ids = ids + segment.ids
        # Decoded as a whole: a character or a space may lie across the seam. Only where a stop string ended it inside a
        # token is the text longer than that of the ids.
        text = engine.tokenizer.decode(ids) + segment.text[len(engine.tokenizer.decode(segment.ids)) :]
        if generated is not None:
            generated = None if segment.generated_tokens is None else generated + segment.generated_tokens
        finished = segment.finished or not segment.ids
        # A stop string across the seam was seen by none of the requests.
        answer = engine.completion(ids, finished, first.prompt_tokens, text, request.sampling)
        answer = replace(answer, generated_tokens=generated, cached_tokens=first.cached_tokens)
        if answer.finished:
            return answer
        if request.enough(answer.text):
            return replace(answer, finished=True, enough=True)
        if len(ids) >= request.sampling.max_new_tokens:
            return answer


def check_tokens(engine: Engine) -> int:
    """After how many tokens each answer is checked for repetition; 0 for never.

    Raises:
        RecipeError: the recipe asks for it, and the engine cannot.
    """
    asked = engine.settings.generation.repeat_check_tokens
    if asked is None:
        return _CHECK_TOKENS if engine.checks_answers else 0
    if asked and not engine.checks_answers and not engine.continues(Request(Prompt([], ""), Sampling(1))):
        raise RecipeError(
            f"{engine.settings.key('generation.repeat_check_tokens')}: this engine or server cannot continue an answer "
            "from its token ids; remove the key, or set it to 0"
        )
    return asked
