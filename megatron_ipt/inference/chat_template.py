"""Chat templates: Jinja programs, published with a tokenizer, that turn a list of messages into the text of a prompt.

They come from a download, so they run in a sandbox, with the same options and functions as in transformers. What a
message quotes is never read as a control token: ``<|im_end|>`` in a document is broken up before it is rendered.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ipt.errors import InputError
from megatron_ipt.files import read_json
from megatron_ipt.tokenizer_readers import read_tokenizer_json, special_tokens

TEMPLATE_FILE = "chat_template.jinja"
CONFIGURATION = "tokenizer_config.json"

Message = Mapping[str, str]
"""``{role, content}``."""


class TemplateRejection(ValueError):
    """The template does not accept these messages, for example because it knows no role ``system``."""


@dataclass(frozen=True)
class ChatTemplate:
    """A compiled template and the special tokens it may write.

    Attributes:
        name: file or name of the template, for errors.
        run: renders variables to text.
        variables: set in every rendering: special tokens by name, and whatever the caller adds.
    """

    name: str
    run: Callable[..., str]
    variables: Mapping[str, Any]

    def render(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        """The text of a chat, with the beginning of the assistant's next message if ``add_generation_prompt``.

        Raises:
            TemplateRejection: the template fails on these messages.
        """
        import jinja2

        try:
            return str(self.run(**self.variables, messages=messages, add_generation_prompt=add_generation_prompt))
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
            raise TemplateRejection(f"{error or type(error).__name__}") from error


def compile_template(
    source: str, name: str, folder: Path, key: str, extra: str, variables: Mapping[str, Any] | None = None
) -> ChatTemplate:
    """Compiles a chat template.

    Args:
        source: Jinja source.
        name: file or name of the template, for errors.
        folder: of the tokenizer whose special tokens the template may write.
        key: recipe key, for errors.
        extra: extra of this package that installs jinja2.
        variables: further variables of the template, e.g. ``{"enable_thinking": False}``.

    Raises:
        InputError: jinja2 is missing, or the template is not valid Jinja.
    """
    run = _compile(source, name, key, extra)
    named = {"bos_token": "", "eos_token": "", **special_tokens(folder), "tools": None}
    return ChatTemplate(name, run, {**named, **(variables or {})})


def published_template(folder: Path, key: str, advice: str) -> tuple[str, str]:
    """The chat template of the tokenizer in ``folder``, and the file it is in.

    Args:
        key: recipe key, for errors.
        advice: what to do when there is none.

    Raises:
        InputError: the tokenizer has no chat template.
    """
    file, configuration = folder / TEMPLATE_FILE, folder / CONFIGURATION
    if file.is_file():
        return file.read_text(encoding="utf-8"), str(file)
    found = read_json(configuration).get("chat_template") if configuration.is_file() else None
    if isinstance(found, list):
        found = {entry["name"]: entry["template"] for entry in found}.get("default")
    if not isinstance(found, str):
        raise InputError(
            f"{key}: the tokenizer in {folder} has no chat template ({TEMPLATE_FILE}, or chat_template in "
            f"{CONFIGURATION}); {advice}"
        )
    return found, str(configuration)


def template_encoder(folder: Path) -> Any:
    """The ``tokenizers.Tokenizer`` in ``folder`` that encodes control tokens written by a template as such.

    Raises:
        InputError: there is no readable ``tokenizer.json``.
    """
    tokenizer = read_tokenizer_json(folder / "tokenizer.json")
    tokenizer.encode_special_tokens = False
    return tokenizer


def _compile(template: str, name: str, key: str, extra: str) -> Callable[..., str]:
    """Compiles a template as transformers does: in a sandbox, with the same options and functions."""
    try:
        import jinja2
        from jinja2.ext import Extension, loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise InputError(
            f'{key}: chat templates need jinja2; install it with pip install "megatron-ipt[{extra}]"'
        ) from error

    class Generation(Extension):
        """``{% generation %}`` marks assistant messages for other tools; its content is rendered unchanged."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.Scope(body, lineno=line)

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **_: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = to_json
    # No strftime_now: templates then use a fixed date, which keeps the output reproducible.
    environment.globals["raise_exception"] = raise_exception
    try:
        compiled = environment.from_string(template)
    except jinja2.TemplateSyntaxError as error:
        raise InputError(f"{key}: {name}: not a valid Jinja template: {error}") from error
    return compiled.render
