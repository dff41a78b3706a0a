import pickle
import re
from pathlib import Path

import pytest

from megatron_ipt.augment.config import AugmentConfig
from megatron_ipt.augment.render import render
from megatron_ipt.augment.templates import load_templates
from megatron_ipt.config import load
from megatron_ipt.errors import RecipeError
from megatron_ipt.synthesis.pairs import Chain, Example, Pair

EXAMPLE = Path(__file__).parents[2] / "examples/templates/my_templates.yaml"


def test_the_built_in_templates_are_many_and_distinct(built_in):
    kinds = ("free", "choice", "free_reasoning", "choice_reasoning")
    assert sum(built_in.counts[f"patterns.{kind}"] for kind in kinds) >= 120
    assert all(built_in.counts[f"patterns.{kind}"] >= 30 for kind in kinds)
    assert built_in.counts["no_answer.wordings"] >= 15
    for kind in kinds:
        pools = built_in.pairs[kind].values()
        entries = {entry for pool in pools for entry in pool.entries}
        assert len(entries) == built_in.counts[f"patterns.{kind}"]


def test_no_two_wordings_were_glued_together(built_in):
    wordings = built_in.no_answer_wordings.entries
    assert all(re.fullmatch(r"[A-Z][^.!?]+\.", wording) for wording in wordings)
    assert len(set(wordings)) == len(wordings)


def test_every_pool_has_something_to_draw(built_in):
    for pools in (*built_in.pairs.values(), *built_in.frames.values(), built_in.option_styles, built_in.turns):
        for condition, pool in pools.items():
            assert pool.entries, condition


def test_templates_pickle_for_workers(built_in):
    assert pickle.loads(pickle.dumps(built_in)) == built_in


BOTH = "{question} {answer}"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("patterns.free", [BOTH, "{question} only"], "patterns.free, entry 2: .*missing slot {answer}"),
        ("patterns.free", [BOTH + "{extra}"], "entry 1: .*unknown slot {extra}; valid here: {question}, {answer}"),
        ("patterns.free", ["{qestion} {answer}"], "unknown slot {qestion}; .* Did you mean {question}?"),
        ("patterns.free", ["{question {answer}"], "entry 1: .*unbalanced '{' at character 1"),
        ("patterns.free", [BOTH + "{answer}"], "entry 1: .*slot {answer} appears twice"),
        ("patterns.free", [{"pattern": BOTH, "weigth": 2}], "entry 1: unknown field 'weigth'; valid: pattern"),
        ("patterns.free", [{"pattern": BOTH, "weight": 0}], "entry 1: weight 0 is not a positive number"),
        ("patterns.free", [{"pattern": BOTH, "weight": "2"}], "entry 1: weight '2' is not a positive"),
        ("patterns.free", [{"pattern": BOTH, "asks": "x"}], "asks: 'x' is not question or instruction"),
        ("patterns.free", [7], "entry 1: expected a pattern or a mapping with one, found int"),
        ("patterns.free", [], "patterns.free: expected a list of entries, found an empty list"),
        ("patterns.free", [{"pattern": BOTH, "asks": "question"}], "at least one entry without asks"),
        ("patterns.choice", ["{question} {options}"], "missing slot {answer} or {letter} or {choice}"),
        ("plain.frames", ["{pairs} {text}"], "slots out of order; {text} must come before {pairs}"),
        ("numbered", [{"frame": "{text}{questions}{answers}"}], "field 'question': expected text, found nothing"),
        ("option_styles", [{"item": "{option}", "letters": "upper"}], "requires the field 'letters'"),
        ("option_styles", [{"item": "{option}"}], "a style with upper or lower letters and one option per line"),
        ("patterns.fre", ["x"], "patterns.fre: unknown key. Did you mean patterns.free"),
        ("text_last_share", 2, "text_last_share: 2 is not a number from 0 to 1"),
        ("layout_weights.several", {"plain": -1}, "layout_weights.several: plain: weight -1 is not a non-negative"),
        ("layout_weights.several", {"plain": 0}, "layout_weights.several: at least one layout needs a positive weight"),
        ("layout_weights.otherwise", {"numbered": 1}, "layout_weights.otherwise: unknown layout 'numbered'"),
        ("no_answer.marks", "none", "no_answer.marks: expected a list of texts, found str"),
        ("apart", None, "missing keys: apart.choice_question"),
        ("plain", [1], "plain: expected a mapping, found list"),
    ],
)  # fmt: skip
def test_a_fault_is_named_with_file_key_and_entry(write_templates, key, value, message):
    path = write_templates({key: value})
    pattern = re.escape(message).replace(r"\.\*", ".*")
    with pytest.raises(RecipeError, match=pattern) as caught:
        load_templates(AugmentConfig(templates=str(path)))
    assert str(path) in str(caught.value)


def test_all_faults_are_reported_at_once(write_templates):
    path = write_templates({"patterns.free": ["{question}"], "text_last_share": "x"})
    with pytest.raises(RecipeError) as caught:
        load_templates(AugmentConfig(templates=str(path)))
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [("a: [", "not valid YAML"), ("- a", "found list"), ("a: 1\na: 2", "appears twice"), ("", "found nothing")],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path, content, message):
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(RecipeError, match=message):
        load_templates(AugmentConfig(templates=str(path)))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="cannot be read"):
        load_templates(AugmentConfig(extend_templates=[str(tmp_path / "none.yaml")]))


def test_the_example_file_adds_to_the_built_in_templates(built_in):
    extended = load_templates(AugmentConfig(extend_templates=[str(EXAMPLE)]))
    assert extended.counts["patterns.free"] == built_in.counts["patterns.free"] + 3
    assert extended.counts["plain.frames"] == built_in.counts["plain.frames"] + 1
    assert extended.text_last_share == 0.1
    assert extended.layouts["several"].entries == ("plain", "dialogue", "examples")
    assert extended.layouts["otherwise"] == built_in.layouts["otherwise"]
    pairs = [Pair("What is it?", "A river."), Pair("Where is it?", "unanswerable")]
    texts = "\n".join(
        render(Chain(f"c{number}", "train", [Example("e", "The Vltava.", "", pairs)]), extended, 1).text
        for number in range(500)
    )
    for expected in (
        "FAQ: What is it?\nA river.",
        "{ask} What is it?\n{tell} A river.",
        "Dear reader, What is it?",
        "From the lexicon:\n\nThe Vltava.",
        "The lexicon has no entry on this.",
    ):
        assert expected in texts


def test_the_recipe_overrides_weights_and_shares():
    config = load(AugmentConfig, None, ["layout_weights.numbered=1", "text_last_share=0.5", "no_answer_share=0"])
    templates = load_templates(config)
    assert templates.layouts["several"].entries == ("numbered",)
    assert (templates.text_last_share, templates.no_answer_share) == (0.5, 0.0)
    with pytest.raises(RecipeError, match=r"augment\.layout_weights: unknown layout 'plane'"):
        load_templates(load(AugmentConfig, None, ["layout_weights.plane=1"]))
