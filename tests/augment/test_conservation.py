"""Whatever the content: every text and every pair is in its document, once, and unchanged."""

from hypothesis import given, settings, strategies as st

from megatron_ipt.augment.render import render
from megatron_ipt.augment.templates import load_templates
from megatron_ipt.synthesis.pairs import TEXT_COMPLETION, Chain, Example, Pair

TEMPLATES = load_templates()

MARKS = st.sampled_from(
    [
        "{answer}",
        "{question}",
        "{",
        "}",
        "{{",
        "%s",
        "%(a)s",
        "<QUE>",
        "<ANS>",
        "</END>",
        "<s>",
        "\n\n",
        "A)",
        "\\n",
        "é",
    ]
)
CONTENT = st.lists(st.one_of(MARKS, st.text(max_size=8)), max_size=4).map("".join)


@st.composite
def chains(draw):
    """Content in brackets with a number of its own, so that each piece can be found again."""
    number = 0

    def piece():
        nonlocal number
        number += 1
        return f"⟦{number}:{draw(CONTENT).replace('⟦', '').replace('⟧', '')}⟧"

    examples = []
    for index in range(draw(st.integers(0, 3))):
        pairs = []
        for place in range(draw(st.sampled_from([0, 1, 2, 3, 3, 8]))):
            options = tuple(piece() for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2, 4, 28]))))
            answer = draw(st.sampled_from(options)) if options and draw(st.booleans()) else piece()
            reasoning = piece() if draw(st.booleans()) else ""
            category = TEXT_COMPLETION if place == 0 and draw(st.booleans()) else "other"
            pairs.append(Pair(piece(), answer, category, options, reasoning))
        examples.append(Example(f"e{index}", piece(), "", pairs))
    return Chain(draw(st.text(max_size=5)), "train", examples)


@settings(max_examples=150, deadline=None)
@given(chains(), st.integers(0, 2**63))
def test_everything_appears_once(chain, seed):
    rendered = render(chain, TEMPLATES, seed)
    text = rendered.text
    assert "".join(string for _, string in rendered.segments) == text
    assert rendered.texts == len(chain.examples)
    assert rendered.pairs == sum(len(example.pairs) for example in chain.examples)
    of_kind = {
        wanted: "".join(string for kind, string in rendered.segments if kind == wanted)
        for wanted in ("text", "question", "answer", "frame")
    }
    assert of_kind["text"] == "".join(example.text for example in chain.examples)
    assert "⟦" not in of_kind["frame"]
    for pair in (pair for example in chain.examples for pair in example.pairs):
        assert text.count(pair.question) == of_kind["question"].count(pair.question) == 1
        assert all(of_kind["question"].count(option) == 1 for option in pair.options)
        if pair.answer in pair.options:
            assert of_kind["answer"].count(pair.answer) <= 1
        else:
            assert of_kind["answer"].count(pair.answer) == text.count(pair.answer) == 1
        if pair.reasoning:
            assert text.count(pair.reasoning) == of_kind["answer"].count(pair.reasoning) == 1


@settings(max_examples=50, deadline=None)
@given(chains(), chains(), st.integers(0, 100))
def test_a_document_does_not_depend_on_what_came_before(chain, other, seed):
    alone = render(chain, TEMPLATES, seed)
    render(other, TEMPLATES, seed)
    assert render(Chain.from_json(chain.to_json()), load_templates(), seed) == alone


@settings(max_examples=60, deadline=None)
@given(chains(), st.integers(0, 100))
def test_a_completion_follows_its_text(chain, seed):
    rendered = render(chain, TEMPLATES, seed)
    for example in chain.examples:
        if example.pairs and example.pairs[0].category == TEXT_COMPLETION:
            after = rendered.text[rendered.text.index(example.text) + len(example.text) :]
            assert "⟦" not in after[: after.index(example.pairs[0].question)]
