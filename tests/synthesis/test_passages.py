from __future__ import annotations

from hypothesis import given, strategies as st

from megatron_ipt.synthesis.from_text.passages import divide, divide_by_tokens


def words(text: str) -> int:
    return len(text.split())


@given(st.text(alphabet="ab .\n!é", max_size=400), st.integers(1, 40))
def test_division_loses_nothing(text: str, limit: int) -> None:
    assert "".join(divide(text, limit)) == text
    assert "".join(divide_by_tokens(text, limit, words)) == text


@given(st.text(alphabet="ab .\n!é", max_size=400), st.integers(1, 40))
def test_passages_keep_to_the_tokens(text: str, limit: int) -> None:
    for passage in divide_by_tokens(text, limit, words):
        assert words(passage) <= limit
    for passage in divide_by_tokens(text, max(limit, 2), lambda part: len(part.encode())):
        assert len(passage.encode()) <= max(limit, 2) or len(passage) == 1


def test_cuts_at_paragraphs_then_sentences() -> None:
    text = "One two three four. Five six.\n\nSeven eight nine. Ten eleven twelve."
    first, *rest = divide_by_tokens(text, 7, words)
    assert first == "One two three four. Five six.\n\n"
    assert rest == ["Seven eight nine. ", "Ten eleven twelve."]


def test_short_texts_are_not_counted() -> None:
    def refuse(text: str) -> int:
        raise AssertionError("counted")

    assert divide_by_tokens("short", 10, refuse) == ["short"]
