import pytest

from megatron_ipt.files import write_json
from megatron_ipt.stages.page import FAINT, FIRST, PLAIN, SECOND, Bars, Caution, Figures, Samples, Segment, Step
from tests.report.runs import TITLES, all_of, change_counts, part_of, write_run


@pytest.fixture
def folders(tmp_path):
    return write_run(tmp_path)


def test_what_was_laid_out(folders):
    part = part_of(folders, "augment")
    # The pairs are those that were made, wherever they came from.
    assert part.step == Step("from 200 pairs", "20", "documents", "2.0 texts each")
    (figures,) = all_of(part, Figures)
    assert [(figure.label, figure.value, figure.note) for figure in figures.figures] == [
        ("documents", "20", "4,000 characters each"),  # 80,000 / 20
        ("with pairs", "16", ""),
        ("without", "4", ""),
        ("texts per document", "2.00", ""),
    ]
    assert figures.note == "Of all characters 75.0% are text, 20.0% are pairs, 5.0% are template text."
    assert [bars.counts for bars in all_of(part, Bars)] == [{"plain": 15, "dialogue": 5}]
    assert all_of(part, Caution) == []


def test_samples_have_marks_and_facts(folders):
    (samples,) = all_of(part_of(folders, "augment"), Samples)
    assert len(samples.samples) == len(TITLES)
    first = samples.samples[0]
    assert [segment.mark for segment in first.segments[:5]] == [PLAIN, FAINT, FIRST, FAINT, SECOND]
    assert first.segments[2] == Segment("Why does high tide come later each day?", FIRST)
    length = sum(len(segment.text) for segment in first.segments)
    assert first.facts == ["dialogue", "2 pairs", f"{length} characters"]
    assert [segment.text for segment in samples.legend] == ["text", "question", "answer", "template text"]


def test_a_sample_that_was_held_out_says_so(folders):
    record = {"id": "a", "layout": "plain", "split": "valid", "texts": 1, "pairs": 1, "segments": [["text", "abc"]]}
    write_json(folders["augment"] / "samples.json", [record])
    (samples,) = all_of(part_of(folders, "augment"), Samples)
    assert samples.samples[0].facts == ["plain", "1 pair", "3 characters", "valid"]


def test_answers_that_are_no_option_are_warned_of(folders):
    change_counts(folders["augment"], unmatched_options=3)
    (caution,) = all_of(part_of(folders, "augment"), Caution)
    assert caution.text.startswith("3 pairs with an answer that is not among the options;")


def test_no_documents(folders):
    change_counts(folders["augment"], documents=0, characters=0)
    part = part_of(folders, "augment")
    (figures,) = all_of(part, Figures)
    assert (part.step.detail, figures.note, figures.figures[3].value) == ("", "", "–")


def test_unfinished_documents_show_nothing(folders):
    write_json(folders["augment"] / "manifest.json", {"stage": "augment", "status": "running"})
    (folders["augment"] / "samples.json").unlink()
    part = part_of(folders, "augment")
    assert (part.step, part.elements) == (None, [Samples("Samples", [], all_of(part, Samples)[0].legend)])
