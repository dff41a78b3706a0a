r"""The format that the released instruction synthesizer was tuned on (arXiv:2406.14491), as text.

One example is ``<s> <CON> {text} </CON>``, a blank line, the pairs ``<QUE> {question} <ANS> {answer} </END>`` joined
by blank lines, and ``</s>``. The marks are plain text; ``<s>`` and ``</s>`` are the control tokens BOS and EOS.
"""

from __future__ import annotations

from megatron_ipt.synthesis.pairs import Pair

TEXT_OPEN, TEXT_CLOSE, QUESTION, ANSWER, END = MARKS = ("<CON>", "</CON>", "<QUE>", "<ANS>", "</END>")
OPTIONS_OPEN = "\nOptions:\n"
OPTION_OPEN = "- "
REASONING_REQUEST = "\nLet's think step by step."
CONCLUSION = "\nTherefore, the answer is "


def render_text(text: str) -> str:
    """The text in its marks, as it follows BOS."""
    return f" {TEXT_OPEN} {text.strip()} {TEXT_CLOSE}\n\n"


def render_pair(pair: Pair) -> str:
    """The pair as the synthesizer writes it."""
    question, answer = asked(pair)
    return f"{QUESTION} {question} {ANSWER} {answer} {END}"


def asked(pair: Pair) -> tuple[str, str]:
    """Question with its options and answer with its reasoning."""
    question, answer = pair.question, pair.answer
    if pair.options:
        question += OPTIONS_OPEN + "\n".join(OPTION_OPEN + option for option in pair.options)
    if pair.reasoning:
        question += REASONING_REQUEST
        answer = pair.reasoning + CONCLUSION + answer
    return question, answer


def render_pairs(pairs: list[Pair]) -> str:
    """What the synthesizer writes after a text."""
    return "\n\n".join(map(render_pair, pairs))
