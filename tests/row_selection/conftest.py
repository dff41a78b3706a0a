from tests.selection.conftest import build, letter_tokenizer

__all__ = ["build", "letter_tokenizer"]
