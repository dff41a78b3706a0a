"""No recipe and no override, however wrong, ends in a traceback: random keys and values of every type."""

from __future__ import annotations

import dataclasses
import json
import signal
import typing

import pytest
import yaml
from hypothesis import HealthCheck, given, settings, strategies as st

from megatron_ipt import cli, extensions
from megatron_ipt.comparison.config import ComparisonConfig
from megatron_ipt.config import describe, load
from megatron_ipt.errors import UserError
from megatron_ipt.recipe import Recipe, load_recipe
from tests.conftest import REPOSITORY

QUICKSTART = REPOSITORY / "examples" / "quickstart.yaml"
SECTIONS = {
    name: section for name, section in typing.get_type_hints(Recipe).items() if dataclasses.is_dataclass(section)
} | {"a comparison": ComparisonConfig}
RELAXED = settings(deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    # A random extension that exists is remembered there.
    monkeypatch.setenv(extensions.VARIABLE, "")


NUMBERS = st.one_of(
    st.integers(-3, 3),
    st.integers(),
    st.integers(1, 1 << 70),
    st.floats(),
    st.sampled_from(["1e400", "-1e400", "1" + "0" * 320, "0x1F", "1_000", "1:30", "-0", ".nan", ".inf", "-.inf", "1."]),
).map(str)
REFERENCES = st.sampled_from(
    [
        "${seed}", "${name}", "${corpus}", "${training.model}", "${nosuch.key}", "${output_dir}", "${}", "${", "}",
        "${a", "${.}", "${..name}", "${...}", "${oc.env:HOME}", "${oc.env:NO_SUCH_VARIABLE_HERE}", "${oc.env:X,null}",
        "${oc.create:{a: 1}}", "${oc.decode:'[1'}", "${oc.dict.keys:corpus}", "${oc.select:x.y}", "${nosuch:a}",
        "${recipe_dir:}", "${recipe_dir:a}", "text ${name} text", "\\${name}", "???", "${${name}}", "${name}${seed}",
    ]
)  # fmt: skip
YAML = st.sampled_from(
    [
        "", " ", "null", "~", "yes", "off", "true", "{}", "[]", "[null]", "[[]]", "[{}]", "{a: 1}", "{a: {b: [null]}}",
        "{1: 2}", "{null: 1}", "{true: 1}", "{a: 1, a: 2}", "{<<: {a: 1}}", "- a", "a: b", "?", "? a", "!", "!!x", "&a",
        "!!int x", '!!int ""', "!!float x", "!!bool x", "!!null x", "!!set {a}", "!!omap [a: 1]", "!!binary aGk=",
        "!!timestamp x", "!!python/object:os.system x", "&a [*a]", "*a", "&a x", "2020-01-01", "2020-99-99", "'", '"',
        "[", "{", "]", "@", "`", "%", "|", ">", "---", "...", "--- a\n--- b", '"\\0"', '"\\ud800"', '"\\u0001"', "\t",
        "[" * 3000, "a" * 6000, "é\u202e😀", "C:\\x", "%s", "{0}", "http://[::1", "nope://x", "~nosuchuser/x",
    ]
)  # fmt: skip
TEXT = st.text(st.characters(exclude_categories=()), max_size=20)
NESTED = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
).map(json.dumps)
VALUES = st.one_of(NUMBERS, REFERENCES, YAML, TEXT, NESTED)


def keys_of(section: type) -> st.SearchStrategy[str]:
    """Keys, sections, keys below keys, and what looks like one."""
    known = [row[0] for row in describe(section)]
    known += sorted({key.rpartition(".")[0] for key in known} - {""})
    given_names = st.sampled_from(["a", "n1", "a b", "a/b", "0", "..", "é", "a[0]", "\\."])
    named = st.builds(lambda key, name: key.replace("NAME", name), st.sampled_from(known), given_names)
    odd = st.sampled_from(["", ".", "..", "[", "]", "[0]", "a[", "a]b", "<<", "${a}", "a b", "\\", "\\=", "0", "null"])
    below = st.builds("{}{}{}".format, named, st.sampled_from([".", "[0]", "..", "[", ".0.", " "]), odd | given_names)
    return st.one_of(named, named, below, odd, TEXT)


def overrides_of(section: type) -> st.SearchStrategy[list[str]]:
    return st.lists(st.builds("{}={}".format, keys_of(section), VALUES), min_size=1, max_size=3)


@pytest.mark.parametrize("name", SECTIONS)
def test_overrides_of_a_section(name):
    section = SECTIONS[name]

    @settings(RELAXED, max_examples=40)
    @given(overrides_of(section))
    def check(overrides):
        try:
            load(section, None, overrides)
        except UserError as error:
            assert str(error).strip()
            str(error).encode()

    check()


@settings(RELAXED, max_examples=50)
@given(overrides_of(Recipe))
def test_overrides_of_a_recipe(overrides):
    try:
        load_recipe(QUICKSTART, overrides)
    except UserError as error:
        assert str(error).strip()
        str(error).encode()


def trees() -> st.SearchStrategy[object]:
    """What YAML can hold, with the names of the recipe's sections and keys among those of its mappings."""
    known = [row[0] for row in describe(Recipe)]
    names = st.sampled_from(sorted({part for key in known for part in key.split(".")} | {"NAME", "a.b", ""}))
    leaves = st.one_of(
        st.none(), st.booleans(), st.integers(-2, 1 << 70), st.floats(), st.dates(), st.binary(max_size=3),
        st.text(max_size=5), REFERENCES,
    )  # fmt: skip
    keys = names | st.integers(0, 3) | st.none() | st.booleans()
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
    )


@st.composite
def recipes(draw):
    """A file: quickstart with sections replaced, any tree, or any text."""
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return draw(st.text(max_size=60)).encode("utf-8", "surrogatepass")
    if kind == 1:
        return draw(st.binary(max_size=40))
    tree = draw(trees())
    if kind == 2:
        content = yaml.safe_load(QUICKSTART.read_text())
        for key in draw(st.lists(st.sampled_from([row[0] for row in describe(Recipe)]), max_size=3)):
            *sections, last = key.split(".")
            place = content
            for name in sections:
                place[name] = place.get(name) if isinstance(place.get(name), dict) else {}
                place = place[name]
            place[last] = draw(trees())
        tree = content
    return yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass")


@settings(RELAXED, max_examples=50)
@given(recipes())
def test_files(tmp_path, content):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    try:
        load_recipe(path)
    except UserError as error:
        assert str(error).strip()
        str(error).encode()


SAMPLES = [
    "corpus.zzz=1", "training.foo=1", "nosuch.key=1", "corpus.inputs={a:1}", "corpus.inputs=[[a]]", "corpus.inputs=[]",
    "corpus.inputs=['']", "corpus.inputs=~nosuchuser/x", "corpus.inputs='**x/a'", "corpus.inputs=nope://x/y",
    "corpus.inputs='http://[::1'", f"corpus.inputs={'a/' * 3000}", 'corpus.inputs=["a\\0b"]', "corpus.inputs=[null]",
    "corpus.reader=x", "corpus.reader=:", "corpus.reader=a:b", "corpus.reader=/dev/null:read", "corpus.reader=.:x",
    "corpus.reader=os:getcwd", "corpus.reader=..x:y", "corpus.text_documents=[file]",
    "corpus.text_key=", "corpus.text_key=''", "corpus.valid_share=1", "corpus.valid_share=.nan", "corpus=1",
    "corpus.shard_documents=9223372036854775807", "corpus.minimum_characters=9223372036854775807", "seed=9" * 12,
    "seed=99999999999999999999999", "compression=zip", 'output_dir="a\\0b"', "output_dir=''", "output_dir=/proc/x/y",
    f"output_dir={'a' * 300}", "output_dir=/dev/null/x", "name=${name}", "name=${", "name", "=", "=1", "a..b=1", "[=1",
    "extensions=[.]", "extensions=[..x]", "extensions=[nosuch]", "extensions=[/tmp]", "\udcff=1", "name=\udcff",
    "training.micro_batch_size=0", "training.model.num_attention_heads=9223372036854775807", "corpus.inputs=${seed}",
    f"training.model.from_hf={'a' * 5000}", "evaluation.harness.include_path=~nosuchuser", "tokens.sources.a/b=1",
]  # fmt: skip


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: ascii(sample)[:60])
def test_from_the_command_line(sample, tmp_path, monkeypatch, capsys):
    """The whole command as far as its first stage, in this process."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["megatron-ipt", "corpus", str(QUICKSTART), "output_dir=run", sample])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    assert ended.value.code in (0, 2, 3, 4, 5), shown
