"""The page as values, of stages that this package does not have."""

import pytest

from megatron_ipt.errors import StageError
from megatron_ipt.files import write_json
from megatron_ipt.report import layout
from megatron_ipt.report.layout import lay_out, read_records, setting_rows
from megatron_ipt.stages import Stage
from megatron_ipt.stages.page import (
    ORANGE,
    Bars,
    Caution,
    Chart,
    Curve,
    Figure,
    Figures,
    Fold,
    Levels,
    Part,
    Quotes,
    Sample,
    Samples,
    Segment,
    Shares,
    SideBySide,
    SmallCharts,
    Step,
    Table,
)

FISH, SOUP = "fish", "soup"
CAUTION = Caution("look out")


def stage(name, reads=(), makes=(), report=""):
    return Stage(name, name, "", object, "module:run", reads=reads, makes=makes, report=report)


CATCH, COOK, TASTE = (
    stage("catch", (), (FISH,), "catch"),
    stage("cook", (FISH,), (SOUP,), "cook"),
    stage("taste", (SOUP,)),
)


@pytest.fixture
def kitchen(tmp_path, monkeypatch):
    """Lays out a page of stages whose parts are given by name."""

    def page(stages, parts, samples=6, **manifests):
        for each in stages:
            manifest = {"status": "complete", "counts": {"made": 3}, "seconds": 2.0} | manifests.get(each.name, {})
            write_json(tmp_path / each.name / "manifest.json", manifest)
        monkeypatch.setattr(layout, "load", lambda hook: lambda record: parts[hook](record))
        records = read_records(stages, {each.name: tmp_path / each.name for each in stages})
        return lay_out("lunch", records, samples)

    return page


def constant(**keys):
    return lambda record: Part(**keys)


def test_records_know_what_was_made_before_them(tmp_path):
    again = stage("sort", (FISH,), (FISH,))
    stages = (CATCH, again, COOK, TASTE)
    for each in (CATCH, again, COOK):
        write_json(tmp_path / each.name / "manifest.json", {"status": "complete", "counts": {"from": each.name}})
    records = read_records(stages, {each.name: tmp_path / each.name for each in stages})
    assert [record.name for record in records] == ["catch", "sort", "cook"]
    assert records[0].earlier == {} and records[1].earlier[FISH] == records[0]
    assert records[2].counts_of(FISH) == {"from": "sort"} and records[2].counts_of(SOUP) == {}


def test_every_stage_has_a_card_and_those_that_show_something_a_section(kitchen):
    parts = {
        "catch": constant(title="The catch", link="Catch", step=Step("from the sea", "3", "fish"), elements=[CAUTION]),
        "cook": constant(step=Step("in a pot", "2", "litres")),
    }
    page = kitchen((CATCH, COOK, TASTE), parts)
    assert [(card.stage, card.step.amount) for card in page.cards] == [("catch", "3"), ("cook", "2"), ("taste", "3")]
    assert [card.share_of_time for card in page.cards] == pytest.approx([1 / 3] * 3)
    # The last one has no function of its own.
    assert [(section.anchor, section.title, section.link) for section in page.sections] == [
        ("catch", "The catch", "Catch"),
        ("taste", "Taste", "Taste"),
    ]
    assert page.sections[1].elements == [Figures([Figure("made", "3")])]


def test_unfinished_stages_say_so(kitchen):
    failed = {"status": "failed", "error": "InputError: no fish", "counts": None}
    page = kitchen((CATCH, COOK), {"catch": constant(elements=[CAUTION]), "cook": constant()}, catch=failed)
    assert (page.cards[0].status, page.cards[0].error) == ("failed", "InputError: no fish")
    assert page.sections[0].status == "failed" and page.cards[1].status == "complete"
    # A part without a card gets one of the counts, if there are any.
    assert [card.step for card in page.cards] == [Step(), Step("from fish", "3", "made")]


def test_the_summary_joins_what_stages_say(kitchen):
    catch, cook = constant(headline="three fish caught"), constant(headline="soup of three fish", instead_of=(FISH,))
    assert kitchen((CATCH,), {"catch": catch}).summary == "Three fish caught."
    assert kitchen((CATCH, COOK), {"catch": catch, "cook": cook}).summary == "Soup of three fish."
    without = constant(headline="soup cooked")
    assert kitchen((CATCH, COOK), {"catch": catch, "cook": without}).summary == "Three fish caught; soup cooked."
    # One that says nothing takes the place of nothing.
    silent = constant(instead_of=(FISH,))
    assert kitchen((CATCH, COOK), {"catch": catch, "cook": silent}).summary == "Three fish caught."


def test_the_summary_of_stages_that_say_nothing(kitchen):
    assert kitchen((TASTE,), {}).summary == ""
    assert kitchen((TASTE,), {}, taste={"status": "failed", "counts": None}).summary == (
        "No stage of this run has finished yet."
    )


def test_levels_are_drawn_across_the_chart_of_an_earlier_stage(kitchen):
    chart = Chart("Weight", [Curve("fish", [5, 6, 9], [1.0, 2.0, 3.0])], note="In kilograms.", name="weight")
    levels = Levels(FISH, "weight", [("limit", 2.5, ORANGE)], "Less than the limit is too small.")
    parts = {"catch": constant(elements=[chart, chart]), "cook": constant(levels=[levels])}
    shown = kitchen((CATCH, COOK), parts).sections[0].elements[0]
    assert shown.curves == [Curve("limit", (5, 9), (2.5, 2.5), ORANGE, dashed=True), *chart.curves]
    assert shown.note == "In kilograms. Less than the limit is too small."


@pytest.mark.parametrize(
    "levels",
    [
        Levels(FISH, "another", [("limit", 2.5, ORANGE)], "note"),
        Levels(SOUP, "weight", [("limit", 2.5, ORANGE)], "note"),
        Levels(FISH, "weight", [], "note"),
    ],
)
def test_levels_that_fit_nothing_change_nothing(kitchen, levels):
    chart = Chart("Weight", [Curve("fish", [5, 6], [1.0, 2.0])], name="weight")
    page = kitchen((CATCH, COOK), {"catch": constant(elements=[chart]), "cook": constant(levels=[levels])})
    assert page.sections[0].elements == [chart]


EMPTY_CHART = Chart("nothing", [Curve("a", [], [])])


@pytest.mark.parametrize(
    "empty",
    [
        Figures([]), Bars("", {}), Table([], []), Shares("", []), EMPTY_CHART, SmallCharts([EMPTY_CHART]),
        Samples("", []), Quotes("", []), SideBySide([Bars("", {})]), Fold("", [SideBySide([Figures([])])]),
    ],
)  # fmt: skip
def test_what_has_nothing_to_show_is_left_out(kitchen, empty):
    page = kitchen((CATCH,), {"catch": constant(elements=[empty, CAUTION])})
    assert page.sections[0].elements == [CAUTION]
    assert kitchen((CATCH,), {"catch": constant(elements=[empty])}).sections == []


def test_bars_may_say_that_there_are_none(kitchen):
    bars = Bars("Lost", {}, if_empty="None.")
    assert kitchen((CATCH,), {"catch": constant(elements=[bars])}).sections[0].elements == [bars]


def test_parts_of_elements_are_left_out_alone(kitchen):
    chart = Chart("Weight", [Curve("fish", [1], [1.0])])
    elements = [SmallCharts([EMPTY_CHART, chart]), SideBySide([Bars("", {}), CAUTION])]
    page = kitchen((CATCH,), {"catch": constant(elements=elements)})
    assert page.sections[0].elements == [SmallCharts([chart]), SideBySide([CAUTION])]


def test_the_recipe_says_how_many_samples_are_shown(kitchen):
    samples = [Sample([Segment(text)]) for text in ("one", "two", "three")]
    parts = {"catch": constant(elements=[Samples("A", samples), Fold("more", [Samples("B", samples[:1])])])}
    page = kitchen((CATCH,), parts, samples=2)
    assert page.sections[0].elements[0].samples == samples[:2]
    assert page.samples == 3
    assert kitchen((CATCH,), parts, samples=0).sections == []


@pytest.mark.parametrize("count", [1, 7, 8, 9, 16, 17])
def test_cards_are_spread_evenly_over_rows(kitchen, count):
    page = kitchen([stage(f"stage_{number:02d}") for number in range(count)], {})
    assert page.cards_in_a_row == {1: 1, 7: 7, 8: 8, 9: 5, 16: 8, 17: 6}[count]
    assert page.cards[0].stage == "stage 00"


def test_the_time_of_a_run(kitchen):
    page = kitchen(
        (CATCH, COOK), {"catch": constant(), "cook": constant()},
        catch={"started": "2025-03-04T11:00:00+0000"}, cook={"started": "2025-03-04T10:00:00+0000", "seconds": None},
    )  # fmt: skip
    assert (page.seconds, page.started) == (2.0, "2025-03-04T10:00:00+0000")


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "catch returned NoneType, expected megatron_ipt.stages.page.Part"),
        (Part(elements=["text"]), "catch: str is not an element of megatron_ipt.stages.page"),
        (Part(elements=[Fold("", [Figure("a", "1")])]), "catch: Figure is not an element"),
    ],
)
def test_what_cannot_be_shown_is_an_error(kitchen, returned, message):
    with pytest.raises(StageError, match=message):
        kitchen((CATCH,), {"catch": lambda record: returned})


def test_settings_have_dotted_keys():
    settings = {
        "model": {"family": "mistral", "num_layers": None, "options": {}}, "lr": 0.003, "shuffle": False,
        "inputs": ["a", True],
    }  # fmt: skip
    assert setting_rows(settings) == [
        ("model.family", "mistral"), ("model.num_layers", ""), ("model.options", ""), ("lr", "0.003"),
        ("shuffle", "false"), ("inputs", "a, true"),
    ]  # fmt: skip


def test_versions_that_changed_between_stages_are_all_named(kitchen):
    page = kitchen(
        (CATCH, COOK), {"catch": constant(), "cook": constant()},
        catch={"versions": {"torch": "2.8.0", "numpy": "2"}}, cook={"versions": {"torch": "2.9.0", "numpy": "2"}},
    )  # fmt: skip
    assert page.versions == [("torch", "2.8.0, 2.9.0"), ("numpy", "2")]
