"""Windows: every token but the first is predicted exactly once, whatever their length."""

from __future__ import annotations

import numpy as np
from hypothesis import given, strategies as st

from megatron_ipt.selection.windows import Framing, by_length, windows

IDS = st.lists(st.integers(0, 3), max_size=30)


@given(IDS, st.integers(1, 12), st.booleans())
def test_every_counted_token_once(ids: list[int], seq_length: int, mask: bool) -> None:
    framing = Framing(bos=9, eod=0, eod_mask=mask)
    framed = framing.framed(ids)
    counted = framing.counted(framed)
    seen = np.zeros(len(framed), int)
    for window in windows(4, framed, counted, seq_length):
        assert window.row == 4
        assert 2 <= len(window.ids) <= seq_length + 1
        # The windows lie one after another, each beginning with the last id of the one before.
        places = [
            place
            for place in range(0, len(framed), seq_length)
            if framed[place : place + seq_length + 1].tolist() == window.ids.tolist()
        ]
        first = min(place for place in places if not seen[place + 1 : place + len(window.ids)].any())
        for place in window.request().counted:
            seen[first + place] += 1
    assert seen.tolist() == counted.astype(int).tolist()


def test_tokens_after_an_end_of_document_do_not_count() -> None:
    framing = Framing(bos=None, eod=0)
    assert framing.counted(framing.framed([5, 0, 6])).tolist() == [False, True, False, True]
    assert Framing(None, 0, eod_mask=False).counted(framing.framed([5, 0, 6])).tolist() == [False, True, True, True]


def test_frames() -> None:
    assert Framing(1, 0).framed([5, 6]).tolist() == [1, 5, 6, 0]
    assert Framing(None, 0, append_eod=False).framed([5, 6]).tolist() == [5, 6]
    assert Framing(1, 0).framed([]).tolist() == []


def test_a_window_without_counted_tokens_is_not_asked_for() -> None:
    framing = Framing(bos=None, eod=0, append_eod=False)
    ids = framing.framed([0, 0, 0, 5])
    assert list(windows(0, ids, framing.counted(ids), 3)) == []
    assert list(windows(0, ids[:1], framing.counted(ids[:1]), 3)) == []


def test_the_longest_windows_come_first_and_ties_keep_their_order() -> None:
    framing = Framing(None, 0)
    made = [
        window
        for row, length in enumerate([2, 5, 2, 5])
        for ids in [framing.framed([1] * length)]
        for window in windows(row, ids, framing.counted(ids), 99)
    ]
    assert [window.row for window in by_length(made)] == [1, 3, 0, 2]
