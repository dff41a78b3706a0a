"""The fixtures of the room that uses the engines."""

from tests.synthesis.conftest import configure, context, model_folder, tokenizer, tokenizer_folder  # noqa: F401
