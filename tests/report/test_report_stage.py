import html
import importlib.util
import re
import typing
from html.parser import HTMLParser
from pathlib import Path

import pytest

from megatron_ipt.errors import StageError, UserError
from megatron_ipt.files import read_json, write_json
from megatron_ipt.report import layout
from megatron_ipt.report.config import ReportConfig
from megatron_ipt.report.layout import lay_out
from megatron_ipt.report.stage import PAGE, _asset, macro_name, render, run
from megatron_ipt.stages import Stage, all_stages, page as vocabulary
from megatron_ipt.stages.page import Part, StageRecord
from tests.evaluation.measured import add_curves

from .runs import CATEGORIES, STAGES, TITLES, context_of, write_run

VOID = {"meta", "link", "br", "path"}


class _Structure(HTMLParser):
    """Checks that elements close in order, and collects what a page could ask the network for."""

    def __init__(self):
        super().__init__()
        self.open, self.requests, self.tags = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "srcset", "action", "data", "xlink:href") and not value.startswith("#"):
                self.requests.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


def build(folders, directory, samples=6, name="quickstart"):
    counts = run(ReportConfig(samples=samples), context_of(folders, directory, name))
    page = (directory / PAGE).read_text("utf-8")
    assert counts["bytes"] == len(page.encode())
    return page


def text_of(page):
    """What a reader sees, roughly: tags dropped, white space joined."""
    body = re.sub(r"<style.*?</style>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def change(path, **values):
    write_json(path, read_json(path) | values)


@pytest.fixture
def page(complete_run, tmp_path):
    return build(complete_run, tmp_path / "report")


def test_complete_run_has_every_section(page):
    assert re.findall(r'<section id="([^"]+)"', page) == [
        "corpus", "synthesis", "augment", "tokens", "training", "evaluation", "settings-and-versions",
    ]  # fmt: skip
    assert re.findall(r'<a href="#([^"]+)">(\w+)</a>', page) == [
        ("corpus", "Corpus"), ("synthesis", "Pairs"), ("augment", "Documents"), ("tokens", "Tokens"),
        ("training", "Training"), ("evaluation", "Evaluation"), ("settings-and-versions", "Settings"),
    ]  # fmt: skip
    assert "<title>quickstart – Megatron-IPT</title>" in page


def test_figures_are_those_worked_out_by_hand(page):
    text = text_of(page)
    for expected in (
        "1 min 55 s in all stages, started 2025-03-04 10:00",
        "documents 64 1,550 characters each",  # 99,200 / 64
        "too short 1 33.3%",
        "texts with pairs 32 80.0%",
        "pairs per text 5.00 6.25 for texts with pairs",  # 200 / 40, 200 / 32
        "cloze 90 45.0%",
        "plain 15 75.0%",
        "75.0% are text, 20.0% are pairs, 5.0% are template text",
        "augmented 75.0% 30,000 2,700 0 18",
        "raw 25.0% 10,000 1,300 1,000 38",
        "3 documents of raw left out to keep the shares. 4 records of raw rejected, see tokens/rejects-raw.jsonl",
        "tokens seen 1.23M 30.7 times the training tokens",
        "unigram entropy, raw 6.480",
        "raw 3.964 52.67 1.562 6.480 1,299",
        "optimizer.lr 0.003",
        "torch 2.8.0",
    ):
        assert expected in text


def test_segments_of_samples_are_marked(page):
    assert '<mark class="first">Why does high tide come later each day?</mark>' in page
    assert '<mark class="second">Because the Moon moves along its orbit while the Earth turns.</mark>' in page
    assert '<span class="faint">\n\nAnswer from the text.\n\nQuestion: </span>' in page
    assert len(re.findall(r'<details class="sample" open>', page)) == 1
    assert len(re.findall(r'<details class="sample"', page)) == 6


def test_number_of_samples_follows_the_recipe(complete_run, tmp_path):
    page = build(complete_run, tmp_path / "report", samples=2)
    assert TITLES[1] in page and TITLES[2] not in page
    assert "Samples</h3>" not in build(complete_run, tmp_path / "report", samples=0)


def test_page_asks_the_network_for_nothing(page):
    structure = _Structure()
    structure.feed(page)
    assert structure.requests == ["data:,"]
    assert not {"script", "iframe", "img", "object", "embed"} & set(structure.tags)
    assert "http:" not in page and "https:" not in page and "@import" not in page and "url(h" not in page
    assert "default-src 'none'" in page


def test_elements_close_in_order(page):
    structure = _Structure()
    structure.feed(page)
    assert structure.open == []


def test_ids_are_unique_and_links_lead_somewhere(page):
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', page)) | set(re.findall(r"url\(#([^)]+)\)", page)) <= set(ids)


def test_same_run_gives_the_same_bytes(complete_run, tmp_path):
    assert build(complete_run, tmp_path / "one") == build(complete_run, tmp_path / "two")


@pytest.mark.parametrize("count", range(1, len(STAGES)))
def test_builds_from_the_first_stages_alone(complete_run, tmp_path, count):
    page = build({name: complete_run[name] for name in STAGES[:count]}, tmp_path / "report")
    assert re.findall(r"<h3>(\w+)</h3>\n<p class=\"into\">", page) == list(STAGES[:count])


@pytest.mark.parametrize("stage", STAGES)
def test_builds_without_any_one_stage(complete_run, tmp_path, stage):
    complete_run[stage] = tmp_path / "nowhere"
    structure = _Structure()
    structure.feed(build(complete_run, tmp_path / "report"))
    assert structure.open == []


def test_interrupted_training_shows_its_curve_and_a_failed_stage_its_error(complete_run, tmp_path):
    for stage, status, error in (("training", "interrupted", None), ("export", "failed", "InputError: no tensor x")):
        manifest = read_json(complete_run[stage] / "manifest.json")
        del manifest["counts"]
        write_json(complete_run[stage] / "manifest.json", manifest | {"status": status, "error": error})
    page = build({name: complete_run[name] for name in STAGES[:-1]}, tmp_path / "report")
    assert "training <b>3." in page and '<p class="unit">interrupted</p>' in page
    assert "<h2>Training <small>interrupted</small></h2>" in page
    assert "<b>export</b> failed: InputError: no tensor x" in page


def test_losses_that_are_not_finite_and_missing_measurements(complete_run, tmp_path):
    (complete_run["training"] / "metrics.jsonl").write_text(
        '{"step":1,"loss":null,"lr":0.1,"grad_norm":null,"tokens_per_second":null,"tokens":64,"seconds":1}\n'
        '{"step":1,"valid":{"raw":null}}\n'
        '{"step":2,"lo'
    )
    assert "Learning rate" in build(complete_run, tmp_path / "report")


def test_hostile_content_is_shown_as_text(complete_run, tmp_path):
    hostile = "</style></details><script>alert('x')</script>{{ 7 * 7 }}{% raw %}<img src=//evil.example/x>&\"'"
    for stage, name in (("synthesis", "categories"), ("augment", "layouts"), ("corpus", "rejected")):
        path = complete_run[stage] / "manifest.json"
        change(path, counts=read_json(path)["counts"] | {name: {hostile: 7}})
    change(complete_run["corpus"] / "manifest.json", settings={hostile: hostile}, versions={hostile: hostile})
    segments = [[kind, hostile] for kind in ("text", "question", "answer", "frame")]
    write_json(
        complete_run["augment"] / "samples.json",
        [{"id": hostile, "split": hostile, "layout": hostile, "texts": 1, "pairs": 1, "segments": segments}],
    )
    results = read_json(complete_run["evaluation"] / "results.json")
    results["perplexity"][hostile] = results["perplexity"]["raw"]
    results["generations"] = [{"prompt": hostile, "continuation": hostile}]
    write_json(complete_run["evaluation"] / "results.json", results)
    metrics = complete_run["training"] / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"raw"', '"<script>raw"'))

    page = build(complete_run, tmp_path / "report", name=hostile)
    structure = _Structure()
    structure.feed(page)
    assert structure.open == []
    assert structure.requests == ["data:,"]
    assert not {"script", "img"} & set(structure.tags)
    assert page.count("</style>") == 1
    assert hostile in text_of(page)


def test_names_of_tasks_are_shown_as_text(complete_run, tmp_path):
    add_curves(complete_run["evaluation"])
    hostile = "<script>alert('x')</script>"
    for name in ("results.json", "curves.json"):
        path = complete_run["evaluation"] / name
        path.write_text(path.read_text().replace('"boolq"', f'"{hostile}"').replace('"raw"', f'"{hostile}"'))
    page = build(complete_run, tmp_path / "report")
    assert "<script>" not in page and hostile in text_of(page)


def test_benchmarks_and_curves_are_on_the_page(complete_run, tmp_path):
    add_curves(complete_run["evaluation"])
    page = build(complete_run, tmp_path / "report")
    structure = _Structure()
    structure.feed(page)
    assert structure.open == [] and structure.requests == ["data:,"]
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    text = text_of(page)
    for expected in (
        "piqa 5 1,000 acc 31.0 1.2 36.0",
        "mean 39.0",
        "mmlu 2 tasks",
        "augmented 3.400 raw 4.200",
        "Mean of all last 40.1",
    ):
        assert expected in text


def test_metrics_of_an_objective_are_on_the_page(complete_run, tmp_path):
    metrics = complete_run["training"] / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"tokens":', '"metrics": {"reverse <kl>": 0.25}, "tokens":'))
    assert "Objectives reverse <kl> last 0.250" in text_of(build(complete_run, tmp_path / "report"))


HOSTILE = "</svg><script>alert('x')</script> `code` {{ 7 * 7 }}"


def element_of(kind):
    """An element of class ``kind`` with hostile text wherever text may stand."""
    curve = vocabulary.Curve(HOSTILE, [1, 2], [1.0, 2.0], vocabulary.PINK)
    chart = vocabulary.Chart(HOSTILE, [curve], HOSTILE, HOSTILE, False, HOSTILE, 2.0, HOSTILE)
    segments = [vocabulary.Segment(HOSTILE, mark) for mark in vocabulary.MARKS]
    columns = (vocabulary.Column(HOSTILE, numeric=False), vocabulary.Column(HOSTILE))
    return {
        vocabulary.Figures: lambda: kind([vocabulary.Figure(HOSTILE, HOSTILE, HOSTILE)], HOSTILE),
        vocabulary.Bars: lambda: kind(HOSTILE, {HOSTILE: 3}, note=HOSTILE),
        vocabulary.Tree: lambda: kind(
            HOSTILE,
            [vocabulary.Branch(HOSTILE, branches=[vocabulary.Branch(HOSTILE, 2, 1)])],
            (HOSTILE, HOSTILE),
            HOSTILE,
        ),
        vocabulary.Table: lambda: kind(
            columns, [vocabulary.Row((HOSTILE, HOSTILE), vocabulary.TEAL, True)], HOSTILE, HOSTILE, HOSTILE
        ),
        vocabulary.Shares: lambda: kind(HOSTILE, [vocabulary.Share(HOSTILE, 1.0, vocabulary.OLIVE)]),
        vocabulary.Chart: lambda: chart,
        vocabulary.SmallCharts: lambda: kind([chart], HOSTILE, HOSTILE),
        vocabulary.Samples: lambda: kind(HOSTILE, [vocabulary.Sample(segments, (HOSTILE,))], segments),
        vocabulary.Quotes: lambda: kind(HOSTILE, [segments], HOSTILE),
        vocabulary.Prose: lambda: kind(HOSTILE, HOSTILE, HOSTILE),
        vocabulary.Caution: lambda: kind(HOSTILE),
        vocabulary.SideBySide: lambda: kind([vocabulary.Caution(HOSTILE), vocabulary.Caution(HOSTILE)]),
        vocabulary.Fold: lambda: kind(HOSTILE, [vocabulary.Caution(HOSTILE)], HOSTILE),
    }[kind]()


def page_of(stages, counts, tmp_path):
    manifest = {"status": "complete", "counts": counts}
    return render(lay_out("x", [StageRecord(stage, tmp_path, manifest) for stage in stages], 6))


@pytest.mark.parametrize("kind", typing.get_args(vocabulary.Element))
def test_every_element_has_its_look_and_shows_text_as_text(kind, tmp_path, monkeypatch):
    assert f"{{% macro {macro_name(kind)}(element) %}}" in _asset("elements.html.j2")
    monkeypatch.setattr(
        "megatron_ipt.report.layout.load", lambda hook: lambda record: Part(elements=[element_of(kind)])
    )
    page = page_of([Stage("mine", "mine", "", object, "", report="mine:part")], {}, tmp_path)
    assert "<script>" not in page and "&lt;script&gt;" in page and "{{ 7 * 7 }}" in page
    structure = _Structure()
    structure.feed(page)
    assert structure.open == [] and structure.requests == ["data:,"]


def test_a_stage_that_describes_no_part_is_shown_by_its_counts(tmp_path):
    stage = Stage("drop_doubles", "drop-doubles", "", object, "", shows=("kept",))
    counts = {"read": 10, "kept": 7, "rejected": {"<b>same</b> text": 3}, "ends": {"train": {"kept": 6}}}
    text = text_of(page_of([stage], counts, tmp_path))
    assert "drop doubles 7 kept" in text
    assert "Drop doubles read 10 kept 7 Rejected <b>same</b> text 3 100% Ends kept train 6" in text


def test_this_room_knows_no_other_stage_by_name():
    names = [stage.name for stage in all_stages() if stage.name != "report"]
    assert len(names) >= 8
    known = re.compile(rf"\b({'|'.join(names)})\b")
    folder = Path(layout.__file__).parent
    files = [path for path in folder.iterdir() if path.is_file()]
    assert len(files) >= 10
    found = {path.name: known.findall(path.read_text("utf-8")) for path in files}
    assert {name: words for name, words in found.items() if words} == {}


def test_a_thousand_steps_and_forty_categories_stay_small(tmp_path):
    categories = {f"category {number}": 500 - number for number in range(40)}
    page = build(write_run(tmp_path / "run", steps=1000, categories=categories), tmp_path / "report")
    assert page.count('<span class="bar"') >= 40
    assert len(page) < 300_000


def test_without_a_single_stage_it_says_so(tmp_path):
    with pytest.raises(StageError, match="no stage has begun"):
        run(ReportConfig(), context_of({name: tmp_path / name for name in STAGES}, tmp_path / "report"))
    assert not (tmp_path / "report").exists()


def test_missing_extra_is_named(complete_run, tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "jinja2" else found(name))
    with pytest.raises(UserError, match=re.escape("pip install megatron-ipt[report]")):
        run(ReportConfig(), context_of(complete_run, tmp_path / "report"))


def test_categories_of_the_fixture_add_up():
    assert sum(CATEGORIES.values()) == 200
