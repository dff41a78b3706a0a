import pytest

from megatron_ipt.files import read_json, write_json
from megatron_ipt.stages import DOCUMENTS
from megatron_ipt.stages.page import Bars, Caution, Figures, Part, Step, Table
from tests.report.runs import CATEGORIES, all_of, change_counts, part_of, write_run


@pytest.fixture
def folders(tmp_path):
    return write_run(tmp_path)


def test_what_was_made(folders):
    change_counts(folders["synthesis"], dropped={"answer too long": 7})
    part = part_of(folders, "synthesis")
    assert part.step == Step("from 40 texts", "200", "pairs", "5.0 per text")
    (figures,) = all_of(part, Figures)
    assert [(figure.label, figure.value, figure.note) for figure in figures.figures] == [
        ("pairs", "200", ""),
        ("texts", "40", ""),
        ("texts with pairs", "32", "80.0%"),
        ("pairs per text", "5.00", "6.25 for texts with pairs"),  # 200 / 40, 200 / 32
        ("categories", "5", ""),
    ]
    assert [bars.counts for bars in all_of(part, Bars)] == [CATEGORIES, {"answer too long": 7}]


def test_pairs_by_task_of_the_prompt(folders):
    tasks = {"questions": 120, "summary": 80}
    change_counts(folders["synthesis"], tasks=tasks)
    assert {bars.title: bars.counts for bars in all_of(part_of(folders, "synthesis"), Bars)}[
        "Pairs by task of the prompt"
    ] == tasks


def test_what_rules_labelled(folders):
    rules = {"lead_summary": 30, "natural_question": 100, "sentiment": 20, "topic": 50}
    change_counts(
        folders["synthesis"],
        tasks=rules,
        labels={"sentiment: negative": 10, "sentiment: positive": 10},
        gap_rouge={"0.20": 7, "0.25": 2, "0.95": 1},
        options_compared={"natural_question: 4": 80, "sentiment: 2": 4, "topic: 4": 50},
        longest_option_is_right={"natural_question: 4": 30, "sentiment: 2": 2},
    )
    manifest = read_json(folders["synthesis"] / "manifest.json")
    write_json(folders["synthesis"] / "manifest.json", manifest | {"settings": {"engine": "pseudo_labels"}})
    part = part_of(folders, "synthesis")
    bars = {element.title: element.counts for element in all_of(part, Bars)}
    assert bars["Pairs by rule"] == rules
    assert bars["Pairs by label"] == {"sentiment: negative": 10, "sentiment: positive": 10}
    assert list(bars["ROUGE-1 F1 of gap sentences with their text"].items()) == [
        ("0.20 to 0.25", 7), ("0.25 to 0.30", 2), ("0.95 to 1.00", 1),
    ]  # fmt: skip
    (table,) = all_of(part, Table)
    assert [row.cells for row in table.rows] == [
        ("natural_question", "4", "80", "37.5%", "25.0%"),
        ("sentiment", "2", "4", "50.0%", "50.0%"),
        ("topic", "4", "50", "0%", "25.0%"),
    ]


def test_what_the_answers_took(folders):
    usage = {"requests": 50, "answers": 48, "failures": 0, "answers_without_usage": 0, "prompt_tokens": 1_234_567}
    usage |= {"cached_tokens": 0, "generated_tokens": 20_000, "unanswered": 2, "cost": 3.21, "currency": "EUR"}
    change_counts(folders["synthesis"], requests=40, usage=usage)
    _, figures = all_of(part_of(folders, "synthesis"), Figures)
    assert [(figure.label, figure.value, figure.note) for figure in figures.figures] == [
        ("answers", "48", "40 of them for finished texts"),
        ("tokens in", "1.23M", ""),
        ("tokens out", "20K", ""),
        ("requests without an answer", "2", "their cost is unknown"),
        ("cost", "3.210 EUR", ""),
    ]
    change_counts(folders["synthesis"], usage=usage | {"cached_tokens": 500, "answers": 40})
    _, figures = all_of(part_of(folders, "synthesis"), Figures)
    assert [figure.note for figure in figures.figures[:2]] == ["", "500 of them cached"]


def test_the_headline_speaks_for_the_documents_too(folders):
    part = part_of(folders, "synthesis")
    assert (part.headline, part.instead_of) == ("64 documents gained 200 instruction–response pairs", (DOCUMENTS,))


def test_pairs_that_begin_a_recipe(folders):
    del folders["corpus"]
    assert part_of(folders, "synthesis").headline == "200 instruction–response pairs made for 40 texts"


def test_texts_without_a_single_pair(folders):
    change_counts(folders["synthesis"], texts=0, texts_with_pairs=0, pairs=0, categories={})
    part = part_of(folders, "synthesis")
    assert part.step == Step("from 0 texts", "0", "pairs", "")
    assert all_of(part, Figures)[0].figures[3].value == "–"


def test_unfinished_pairs_show_nothing(folders):
    write_json(folders["synthesis"] / "manifest.json", {"stage": "synthesis", "status": "failed"})
    assert part_of(folders, "synthesis") == Part()


@pytest.mark.parametrize(
    ("changes", "cautions"),
    [
        ({"requests": 40, "answers_cut_off": 20, "answers_copied_from_prompt": 20}, []),
        (
            {"requests": 40, "answers_cut_off": 21},
            ["21 of 40 answers were cut off at the token limit (`synthesis.generation.max_new_tokens`)."],
        ),
        ({"requests": 40, "answers_copied_from_prompt": 21}, ["21 of 40 answers were copied from the prompt."]),
        (
            {"texts_with_repeated_pairs": 17},  # Of 32 texts with pairs.
            ["17 of 32 texts with pairs got the same questions as an earlier text."],
        ),
        ({"requests": 40, "answers_declined_by_model": 21}, ["21 of 40 answers declined the request."]),
        (
            {"requests": 40, "answers_in_another_language": 21, "answers_copied_from_example": 22},
            [
                "22 of 40 answers only repeated the example in the prompt.",
                "21 of 40 answers were in another language than their text.",
            ],
        ),
        ({"short_answers": 100, "short_answers_not_in_text": 80}, []),
        (
            {"short_answers": 100, "short_answers_not_in_text": 81},
            ["81 of 100 short answers share no word with their text."],
        ),
        ({"requests": 40, "texts_with_pairs": 1}, ["Only 1 of 40 texts got a pair."]),  # 5 % would be 2.
        ({"requests": 40, "texts_with_pairs": 2}, ["38 of 40 texts got no pair."]),
        ({"requests": 40, "texts_with_pairs": 19}, ["21 of 40 texts got no pair."]),
        ({"requests": 40, "texts_with_pairs": 20}, []),
        ({"texts_with_pairs": 0, "pairs": 0}, ["No text got a pair."]),
    ],
)
def test_defects_of_the_answers_are_cautions(folders, changes, cautions):
    change_counts(folders["synthesis"], **changes)
    assert [caution.text for caution in all_of(part_of(folders, "synthesis"), Caution)] == cautions
