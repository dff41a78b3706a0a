from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from megatron_ipt.config import REQUIRED, as_dict, describe, key, load
from megatron_ipt.errors import RecipeError


@dataclass
class Inner:
    width: int = key(8, "Width.", minimum=2, maximum=64)
    kind: str = key("small", "Kind.", choices=("small", "large"))
    workers: int = key(1, "Workers.", affects_output=False)
    share: float | None = key(None, "Share.", minimum=0, maximum=1)

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.kind == "large" and self.width < 16:
            yield "width", "too narrow for kind=large"


@dataclass
class Outer:
    paths: list[str] = key(REQUIRED, "Paths.")
    inner: Inner = key(Inner, "Inner.")
    named: dict[str, Inner] = key({}, "By name.")
    groups: dict[str, list[str]] = key({}, "Lists by name.")


def refusal(*overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load(Outer, None, overrides)
    return str(caught.value)


def test_defaults_and_overrides_merge_into_typed_sections():
    value = load(Outer, None, ["paths=[a,b]", "inner.width=16", "named.x.kind=small"])
    assert value == Outer(["a", "b"], Inner(16), {"x": Inner()})


def test_overrides_win_over_the_file(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("paths: [one]\ninner: {width: 4}\n")
    assert load(Outer, recipe, ["inner.width=5"]).inner.width == 5


def test_recipe_dir_and_interpolation(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text('paths: ["${recipe_dir:}/corpus", "${inner.kind}"]\n')
    assert load(Outer, recipe).paths == [f"{tmp_path}/corpus", "small"]


def test_every_unknown_key_is_named_with_the_nearest_valid_one():
    message = refusal("paths=[a]", "inner.widht=3", "named.x.knd=small", "pahts=[b]")
    assert "inner.widht: unknown key. Did you mean inner.width?" in message
    assert "named.x.knd: unknown key. Did you mean named.x.kind?" in message
    assert "pahts: unknown key. Did you mean paths?" in message


def test_a_key_in_the_wrong_section_is_found_by_its_name():
    assert "width: unknown key. Did you mean inner.width?" in refusal("paths=[a]", "width=3")


def test_a_key_that_resembles_none_is_explained_as_well():
    assert refusal("paths=[a]", "inner.zzz=1") == "inner.zzz: unknown key. Valid in inner: width, kind, workers, share"
    assert refusal("paths=[a]", "zzz.width=1") == "zzz: unknown key. Valid in the recipe: paths, inner, named, groups"
    assert refusal("paths=[a]", "=1").startswith("'': unknown key")


def test_one_value_stands_for_a_list_of_one(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("paths: one\n")
    assert load(Outer, recipe).paths == ["one"]
    assert load(Outer, recipe, ["paths=two"]).paths == ["two"]
    assert load(Outer, recipe, ["groups.a=x", "groups.b=[y,z]"]).groups == {"a": ["x"], "b": ["y", "z"]}


def test_an_override_that_is_no_yaml_is_the_one_that_is_named():
    assert refusal("inner.width=3", "paths=[a").startswith("paths=[a: cannot be read as YAML: did not find expected")


def test_a_wrong_type_names_the_key():
    assert refusal("paths=[a]", "inner.width=wide").startswith("inner.width: expected a whole number, found 'wide'")
    assert refusal("paths=[a]", "inner=3") == "inner: expected keys below it, found 3"
    assert refusal("paths=[a]", "inner=null") == "inner: expected keys below it, found null"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("paths={a: 1}", "paths: expected a list, found {'a': 1}"),
        ("paths=null", "paths: expected a list, found null"),
        ("paths=[a, [b], {c: d}, null]", "paths[1]: expected text, found ['b']"),
        ("inner.width=1e3", "inner.width: expected a whole number, found 1000.0"),
        ("inner.width=yes", "inner.width: expected a whole number, found true"),
        ("inner.width=99999999999999999999", "inner.width: 1.000e+20 does not fit into 64 bits"),
        ("inner.share=.nan", "inner.share: NaN is not allowed"),
        ("inner.share=no", "inner.share: expected a number or null, found false"),
        ("inner.share=1.5", "inner.share: 1.5 is above the maximum 1"),
        ("inner.kind={}", "inner.kind: expected text, found {}"),
        ("named=[1]", "named: expected keys below it, found [1]"),
        ("named.x=null", "named.x: expected keys below it, found null"),
        ("named={1: {}}", "named: 1 is not a name; write it in quotes"),
        ('paths="a\\0b"', "paths: 'a\\x00b' holds a NUL character"),
        ("inner.kind=${nosuch}", "inner.kind: Interpolation key 'nosuch' not found"),
        ("inner.width=${inner.kind}", "inner.width: While dereferencing interpolation '${inner.kind}': Value 'small'"),
        ("inner=${named}", "inner: Invalid type assigned: dict is not a subclass of Inner. value: {}"),
        ('paths=["???"]', "paths[0]: required, but not set"),
        ("inner.kind=!!int ''", "inner.kind=!!int '': cannot be read as YAML: string index out of range"),
        ("paths=[[[[", "paths=[[[[: cannot be read as YAML: did not find expected node content"),
        ("\udcff=1", "'\\udcff': unknown key"),
    ],
)
def test_values_that_cannot_be_are_refused_by_their_key(override, message):
    found = refusal(*(() if override.startswith("paths=") else ("paths=[a]",)), override)
    assert found.startswith(message), found
    found.encode()


def test_a_combination_is_judged_once_its_values_are_valid():
    """A check may divide by a value, so it must not see a zero that is out of range."""
    assert refusal("paths=[a]", "inner.kind=large", "inner.width=0") == "inner.width: 0 is below the minimum 2"


def test_all_problems_are_reported_at_once():
    message = refusal("paths=[a]", "inner.width=1", "inner.kind=lage")
    assert "inner.width: 1 is below the minimum 2" in message
    assert "inner.kind: 'lage' is not one of small, large. Did you mean large?" in message


def test_sections_refuse_combinations_with_their_path():
    assert refusal("paths=[a]", "named.x.kind=large") == "named.x.width: too narrow for kind=large"


def test_a_missing_required_key_is_named():
    assert refusal() == "paths: required, but not set"


def test_an_override_without_a_value_is_refused():
    assert "expected key=value" in refusal("paths")


@pytest.mark.parametrize(
    ("content", "message"),
    [("a: [1", "not valid YAML"), ("- a\n", "a recipe is a mapping"), ("a: 1\na: 2\n", "not valid YAML")],
)
def test_files_that_are_no_recipe(tmp_path, content, message):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(content)
    with pytest.raises(RecipeError, match=message):
        load(Outer, recipe)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RecipeError, match=r"none\.yaml: recipe cannot be read"):
        load(Outer, tmp_path / "none.yaml")


def test_settings_that_do_not_affect_output_can_be_left_out():
    value = load(Outer, None, ["paths=[a]", "named.x.workers=4"])
    assert as_dict(value)["named"]["x"]["workers"] == 4
    assert "workers" not in as_dict(value, only_output=True)["named"]["x"]
    assert "workers" not in as_dict(value, only_output=True)["inner"]


def test_every_key_is_described():
    rows = {row[0]: row[1:] for row in describe(Outer)}
    assert rows["paths"] == ("list[str]", "required", "Paths.")
    assert rows["inner.kind"] == ("small | large", "small", "Kind.")
    assert "named.NAME.width" in rows


@dataclass
class Mixed:
    prompt: Any = key("one", "Names.", either=(str, dict[str, float]))


def test_a_key_may_take_one_of_two_types(tmp_path):
    assert load(Mixed, None, ["prompt=two"]).prompt == "two"
    assert load(Mixed, None, ["prompt={two: 1, a.yaml: 0.5}"]).prompt == {"two": 1, "a.yaml": 0.5}
    recipe = tmp_path / "r.yaml"
    recipe.write_text("prompt: {two: 1}\n")
    assert load(Mixed, recipe, ["prompt.three=2"]).prompt == {"two": 1, "three": 2}
    assert load(Mixed, recipe, ["prompt=three"]).prompt == "three"
    assert [row[:3] for row in describe(Mixed)] == [("prompt", "str | dict[str, float]", "one")]
    for value, message in (("{two: x}", "prompt.two: expected a number, found 'x'"), ("[1]", "prompt: expected text")):
        with pytest.raises(RecipeError) as caught:
            load(Mixed, None, [f"prompt={value}"])
        assert str(caught.value).startswith(message)
