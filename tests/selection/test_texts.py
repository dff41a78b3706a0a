"""Repetition among the texts that a selection likes best."""

from __future__ import annotations

import pytest

from megatron_ipt.selection.findings.texts import repeated_share, warnings_about_texts


def test_share_of_sequences_that_occurred_before() -> None:
    # Seven sequences: abcd bcda cdab dabc abcd bcda cdab, of which four are distinct.
    assert repeated_share("a b c d a b c d a b") == pytest.approx(3 / 7)
    assert repeated_share("a b c d e f g") == 0
    assert repeated_share("a b c") == 0


def test_repetition_at_the_top_is_a_warning() -> None:
    again, once = {"text": "We sell shoes here today. " * 9}, {"text": "One two three four five six seven."}
    (warning,) = warnings_about_texts({"top": [again, again, once], "bottom": [once]})
    assert warning.startswith("the best texts mostly repeat themselves")
    assert not warnings_about_texts({"top": [again, once, once], "bottom": [again] * 3})
    assert not warnings_about_texts({})
