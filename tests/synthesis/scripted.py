"""A strong chat model as a script, and a tokenizer with a ChatML template, for tests of prompt styles."""

from __future__ import annotations

import json
import re
from pathlib import Path

from megatron_ipt.inference.engine import Request
from tests.synthesis.conftest import write_tokenizer
from tests.synthesis.instant import InstantEngine

CHATML = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_PASSAGE = re.compile(r"Passage:\n(.*?)(?:\n\n|<\|im_end\|>)", re.DOTALL)


def write_chat_tokenizer(folder: Path, template: str | None = CHATML, eos: str = "<|im_end|>") -> Path:
    """The tokenizer of ``write_tokenizer`` with the two control tokens of ChatML, and ``template``."""
    from tokenizers import Tokenizer, processors

    write_tokenizer(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<|im_start|>", "eos_token": eos}
    (folder / "tokenizer_config.json").write_text(
        json.dumps(settings | ({"chat_template": template} if template else {}))
    )
    return folder


def passage_of(prompt: str) -> str:
    """The text that the last message of a prompt asks about."""
    return _PASSAGE.findall(prompt)[-1]


def answer_about(prompt: str) -> str:
    """A proper answer to any built-in task."""
    words = passage_of(prompt).split()
    first = " ".join(words[:2])
    if '"options"' in prompt:
        pairs = [{"question": "How does it begin?", "options": ["So", first, "Not"], "answer": first}]
    elif '"reasoning"' in prompt:
        pairs = [{"question": "How long is it?", "reasoning": "Count the words.", "answer": str(len(words))}]
    elif '"pairs"' in prompt:
        pairs = [
            {"question": f"What follows {words[0]}?", "answer": words[1]},
            {"question": "Its end?", "answer": words[-1]},
        ]
    else:
        return f"In short: {passage_of(prompt)}"
    return f"```json\n{json.dumps({'pairs': pairs})}\n```"


class StrongEngine(InstantEngine):
    """Answers every built-in task properly."""

    def answer(self, request: Request) -> str:
        return answer_about(request.prompt.text)
