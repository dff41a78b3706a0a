from dataclasses import dataclass

from megatron_ipt.report.generic import generic_part, generic_step, titled
from megatron_ipt.stages import CHAINS, DOCUMENTS, Stage
from megatron_ipt.stages.page import Bars, Figures, Row, StageRecord, Step, Table


@dataclass
class Section:
    pass


def stage(**keys):
    return Stage("dedup_pairs", "dedup-pairs", "Drop doubles.", Section, "module:run", **keys)


def record_of(counts, earlier=(), **keys):
    return StageRecord(stage(**keys), None, {"status": "complete", "counts": counts}, dict.fromkeys(earlier))


def test_numbers_become_figures_and_counts_by_name_become_bars():
    counts = {
        "documents": 12_345, "mean_length": 21.25, "engine": "mined", "exact": True, "empty_files": ["a", "b"],
        "nothing": None, "rejected": {"too short": 3, "not text": 1}, "dropped": {},
    }  # fmt: skip
    figures, rejected, dropped = generic_part(record_of(counts)).elements
    assert isinstance(figures, Figures)
    assert [(figure.label, figure.value) for figure in figures.figures] == [
        ("documents", "12,345"), ("mean length", "21.25"), ("engine", "mined"), ("exact", "yes"), ("empty files", "2"),
    ]  # fmt: skip
    assert rejected == Bars("Rejected", {"too short": 3, "not text": 1})
    assert dropped == Bars("Dropped", {})


def test_numbers_by_name_and_figure_become_a_table():
    splits = {"train": {"documents": 10, "tokens": 2000}, "valid": {"documents": 1, "loss": 3.5}}
    counts = {"by_split": splits, "lengths": {"mean": 2.5, "most_words": 7}}
    _, table, settings = generic_part(record_of(counts)).elements
    assert isinstance(table, Table) and isinstance(settings, Table)
    assert [column.name for column in table.columns] == ["", "documents", "tokens", "loss"]
    assert table.rows == [Row(("train", "10", "2,000", "–")), Row(("valid", "1", "–", "3.500"))]
    assert (table.title, settings.rows) == ("By split", [Row(("mean", "2.500")), Row(("most words", "7"))])


def test_the_card_has_the_first_count_that_logs_show():
    counts = {"seconds_asleep": 3, "kept_documents": 20_000, "rejected": {"double": 4}}
    kinds = {"reads": (DOCUMENTS,), "reads_if_made": (CHAINS,)}
    record = record_of(counts, (DOCUMENTS,), shows=("rejected", "kept_documents"), **kinds)
    assert generic_step(record) == Step("from documents", "20K", "kept documents")
    assert generic_step(record_of({"kept_documents": 1})) == Step("", "1", "kept document")
    assert generic_step(record_of({})) == Step()


def test_titles_of_names():
    assert titled("dedup_pairs") == "Dedup pairs"
