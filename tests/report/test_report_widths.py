import pytest

from megatron_ipt.report.widths import Piece, bars_of, pieces_of, preview_of, runs_of
from megatron_ipt.stages.page import FIRST, PLAIN, Bars, Segment

SENTENCES = "".join(f"Sentence {number:04d}. " for number in range(500))


def test_bars_are_ordered_and_scaled():
    bars = bars_of(Bars("", {"b": 10, "a": 10, "c": 30}))
    assert [(bar.label, bar.value, bar.share, round(bar.width, 3)) for bar in bars] == [
        ("c", 30, 0.6, 1.0),
        ("a", 10, 0.2, 0.333),
        ("b", 10, 0.2, 0.333),
    ]
    assert bars_of(Bars("", {})) == []
    assert [(bar.width, bar.share) for bar in bars_of(Bars("", {"nothing": 0}))] == [(0.0, 0.0)]


def test_bars_may_keep_their_order():
    counts = {"0 to 1": 2, "1 to 2": 30, "2 to 3": 4}
    assert [bar.label for bar in bars_of(Bars("", counts, in_order=True))] == list(counts)


def test_forty_categories_have_a_bar_each_and_more_share_the_last():
    assert len(bars_of(Bars("", {f"category {i}": i + 1 for i in range(40)}))) == 40
    bars = bars_of(Bars("", {f"category {i:02d}": 100 - i for i in range(45)}))
    assert len(bars) == 40
    # The six smallest: 61 + 60 + 59 + 58 + 57 + 56.
    assert (bars[-1].label, bars[-1].value, bars[-1].is_rest) == ("6 more", 351, True)
    assert [bar.value for bar in bars_of(Bars("", {"a": 4, "b": 3, "c": 2, "d": 1}, most=3))] == [4, 3, 3]


def test_short_segments_stay_whole_and_empty_ones_are_left_out():
    segments = [Segment("A text."), Segment("", FIRST), Segment("Why?", FIRST)]
    assert pieces_of(segments) == [Piece("A text.", PLAIN), Piece("Why?", FIRST)]


def test_long_segments_hide_their_middle_and_lose_nothing():
    pieces = pieces_of([Segment(SENTENCES, FIRST)])
    assert [(piece.hidden, piece.mark) for piece in pieces] == [(False, FIRST), (True, FIRST), (False, FIRST)]
    assert "".join(piece.text for piece in pieces) == SENTENCES
    assert {word for piece in pieces for word in piece.text.split()} == set(SENTENCES.split())


def test_a_document_of_megabytes_does_not_land_on_the_page():
    pieces = pieces_of([Segment("word " * 1_000_000)])
    assert sum(len(piece.text) for piece in pieces) < 25_000
    # 5,000,000 less the 700 first, the 20,000 kept, and the 295 last, which begin with a word.
    assert "4,979,005 more characters" in pieces[1].text


def test_a_preview_is_one_line_of_whole_words():
    assert preview_of([Segment("Title\n\n"), Segment("A  short\ttext.")]) == "Title · A short text."
    assert (
        preview_of([Segment(SENTENCES)])
        == "Sentence 0000. Sentence 0001. Sentence 0002. Sentence 0003. Sentence 0004. Sentence 0005. …"
    )


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        ("plain", [("plain", False)]),
        ("see `a/b.jsonl`.", [("see ", False), ("a/b.jsonl", True), (".", False)]),
        ("`a` and `b`", [("a", True), (" and ", False), ("b", True)]),
        ("one ` alone", [("one ` alone", False)]),
        ("", []),
    ],
)
def test_backticks_set_off_code(text, runs):
    assert runs_of(text) == runs
