from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from megatron_ipt.errors import InputError
from megatron_ipt.inference.chat_template import published_template
from megatron_ipt.inference.tokenizer import PromptTokenizer
from megatron_ipt.tuning.chats import UnusableChatError
from megatron_ipt.tuning.templates import SIMPLE_CHAT, ChatLayout, TemplateLayout, open_layout

CHAT = [
    {"role": "user", "content": "Hi </s>"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "Ciao"},
]
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ m.content + eos_token }}{% else %}{{ raise_exception('no ' + m.role) }}"
    "{% endif %}{% endfor %}"
)
LINES = (
    "{% for m in messages %}<|{{ m.role }}|>\n{% generation %}{{ m.content + eos_token + '\n' }}{% endgeneration %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def marked(tokenizer: PromptTokenizer, layout: ChatLayout) -> tuple[str, list[int]]:
    """Pieces of the chat, those to be predicted in brackets, and the ends."""
    masked, ends = layout.encode(CHAT)
    pieces = [tokenizer._tokenizer.id_to_token(token) for token in masked.ids]  # type: ignore[attr-defined]
    return " ".join(f"[{piece}]" if on else piece for piece, on in zip(pieces, masked.mask)), ends


def test_plain_token_by_token(mistral: PromptTokenizer, mistral_folder: Path) -> None:
    assert marked(mistral, open_layout("plain", mistral_folder, mistral)) == (
        "<s> ▁Hi ▁</ s > [▁Hello] [</s>] <s> ▁By e [▁C] [iao] [</s>]", [7, 13]
    )  # fmt: skip


def test_simple_chat_token_by_token(mistral: PromptTokenizer, mistral_folder: Path) -> None:
    text, ends = marked(mistral, open_layout("chat", mistral_folder, mistral))
    assert text == (
        "<s> ▁User : ▁Hi ▁< ▁/ s > <0x0A> <0x0A> Ass istant : [▁Hello] [</s>] "
        "▁ <0x0A> <0x0A> User : ▁By e <0x0A> <0x0A> Ass istant : [▁C] [iao] [</s>] ▁ <0x0A> <0x0A>"
    )
    assert ends == [15, 30]


def test_template_of_the_tokenizer_token_by_token(mistral: PromptTokenizer, mistral_folder: Path) -> None:
    text, ends = marked(mistral, TemplateLayout(mistral_folder, INST, "inst"))
    assert text == (
        "<s> ▁[ INST ] ▁Hi ▁< ▁/ s > ▁[ / INST ] [Hello] [</s>] ▁[ INST ] ▁By e ▁[ / INST ] [C] [iao] [</s>]"
    )
    assert ends == [15, 27]


@pytest.mark.parametrize("template", [SIMPLE_CHAT, INST, LINES])
def test_ids_are_those_of_transformers(template: str, mistral_folder: Path, tmp_path: Path) -> None:
    """transformers loads the folder with the template and gives the same ids, for the chat and for the prompt."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path / "tokenizer"
    shutil.copytree(mistral_folder, folder)
    (folder / "chat_template.jinja").write_text(template)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    messages = [{**message, "content": message["content"].replace("</s>", "")} for message in CHAT]
    masked, ends = TemplateLayout(folder, template, "given").encode(messages)
    theirs = tokenizer.apply_chat_template(messages, return_dict=False)
    assert masked.ids == theirs
    prompt = tokenizer.apply_chat_template(messages[:3], add_generation_prompt=True, return_dict=False)
    assert theirs[: len(prompt)] == prompt
    assert masked.mask[len(prompt) - 1 : len(prompt) + 1] == [0, 1]
    assert masked.ids[ends[0] - 1] == masked.ids[ends[1] - 1] == tokenizer.eos_token_id


def test_a_token_over_the_seam_is_divided(bytes_tokenizer: PromptTokenizer, byte_folder: Path) -> None:
    """``he`` is one piece; a prompt that ends in h and an answer that begins with e do not use it."""
    assert len(bytes_tokenizer.encode(["he"])[0]) == 1
    layout = TemplateLayout(byte_folder, "{% for m in messages %}{{ m.content }}{% endfor %}", "bare")
    masked, ends = layout.encode([{"role": "user", "content": "h"}, {"role": "assistant", "content": "e"}])
    assert masked.ids == [bytes_tokenizer.encode(["h"])[0][0], bytes_tokenizer.encode(["e"])[0][0]]
    assert (masked.mask, ends) == ([0, 1], [2])


def test_template_that_changes_what_was_said(mistral_folder: Path) -> None:
    # Shows the last answer otherwise than the earlier ones, as templates that drop earlier reasoning do.
    template = "{% for m in messages %}{{ '*' if loop.last }}{{ m.content }}{{ eos_token }}{% endfor %}"
    with pytest.raises(InputError, match=r"tuning\.template: forgetful renders the beginning .* differently"):
        TemplateLayout(mistral_folder, template, "forgetful").encode(CHAT)


def test_chat_that_the_template_refuses(mistral_folder: Path) -> None:
    with pytest.raises(UnusableChatError, match="rejected by the chat template: no system"):
        TemplateLayout(mistral_folder, INST, "inst").encode([{"role": "system", "content": "Be brief."}, *CHAT])


def test_no_template_and_a_broken_one(mistral: PromptTokenizer, mistral_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no chat template .* set tuning\.template to chat or plain"):
        open_layout("chat_template", mistral_folder, mistral)
    with pytest.raises(InputError, match="given: not a valid Jinja template"):
        TemplateLayout(mistral_folder, "{% for %}", "given")
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": [{"name": "default", "template": "{{ 1 }}"}]}')
    assert published_template(tmp_path, "tuning.template", "")[0] == "{{ 1 }}"
