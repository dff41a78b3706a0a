"""The taxonomy file: what is read, and that everything wrong with it is said at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron_ipt.errors import RecipeError
from megatron_ipt.synthesis.from_taxonomy.outline.taxonomy import (
    BUILT_IN,
    Discipline,
    clean_name,
    file_of,
    read_taxonomy,
    same_name,
)


def read(tmp_path: Path, text: str) -> list[Discipline]:
    file = tmp_path / "taxonomy.yaml"
    file.write_text(text, encoding="utf-8")
    return read_taxonomy(file)


def test_the_built_in_one() -> None:
    disciplines = read_taxonomy(file_of(BUILT_IN))
    assert len(disciplines) == 133
    assert len({discipline.field for discipline in disciplines}) == 8
    assert {discipline.weight for discipline in disciplines} == {1.0}
    assert len({discipline.shard_name("none") for discipline in disciplines}) == 133


def test_weights_multiply_and_zero_leaves_out(tmp_path: Path) -> None:
    text = "fields: {F: {S: [One, {Two: 3}, {None at all: 0}], T: [Three]}}\nweights: {f: 2, T: 0.25}"
    found = {discipline.path: discipline.weight for discipline in read(tmp_path, text)}
    assert found == {"F > S > One": 2.0, "F > S > Two": 6.0, "F > T > Three": 0.5}


def test_names_become_ids() -> None:
    assert clean_name(" ﬁne\t arts > \u00a0crafts\x07 ") == "fine arts › crafts"
    assert same_name("Straße") == same_name("  STRASSE ")


def test_a_shard_is_named_after_the_path_alone(tmp_path: Path) -> None:
    (first,) = read(tmp_path, "fields: {F: {S: [Käse & Brot]}}")
    _, second = read(tmp_path, "fields: {A: {B: [C]}, F: {S: [{Käse & Brot: 2}]}}")
    assert first.shard_name("zst") == second.shard_name("zst")
    assert first.shard_name("zst").startswith("shard-kase-brot-")
    (nameless,) = read(tmp_path, "fields: {F: {S: [食品]}}")
    assert nameless.shard_name("none").startswith("shard-") and "--" not in nameless.shard_name("none")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "expected a mapping with the key fields"),
        ("fields: {}", "expected a mapping with the key fields"),
        ("fields: [a]", "expected a mapping with the key fields"),
        ("fields: {F: {}}", "F: has no sub-fields"),
        ("fields: {F: {S: []}}", "F > S: has no disciplines"),
        ("fields: {F: {S: A}}", "F > S: has no disciplines"),
        ("fields: {F: {S: [A], T: [' a ']}}", "F > T > a: there is F > S > A already"),
        ("fields: {F: {S: [A, A]}}", "F > S > A: there is F > S > A already"),
        ("fields: {F: {S: [A]}, f: {T: [B]}}", "'f' is there twice"),
        ("fields: {F: {S: [1984]}}", "discipline 1984: expected a name; put it in quotation marks"),
        ("fields: {F: {S: [No]}}", "discipline False: expected a name"),
        ("fields: {F: {S: [{A: -1}]}}", "F > S: A: the weight is -1"),
        ("fields: {F: {S: [{A: .nan}]}}", "the weight is nan"),
        ("fields: {F: {S: [{A: 0}]}}", "no discipline has a weight above 0"),
        ("fields: {F: {S: [A]}}\nweights: {Sea: 2}", "weights: Sea: not a field or sub-field"),
        ("fields: {F: {S: [A]}}\nfeilds: {}", "'feilds': not a key of a taxonomy. Did you mean fields"),
        ("fields: {F: {S: ['" + "x" * 300 + "']}}", "expected a name of 1 to 200 characters"),
        ("fields: {F: {S: [' ']}}", "expected a name of 1 to 200 characters"),
        ("fields: {F: [", "not valid YAML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(RecipeError) as error:
        read(tmp_path, text)
    assert expected in str(error.value)
    assert "taxonomy.file: " in str(error.value) and "taxonomy.yaml" in str(error.value)


def test_everything_wrong_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as error:
        read(tmp_path, "fields: {F: {S: [A, 3, {B: x}]}, G: {}}")
    assert len(str(error.value).splitlines()) == 3


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"taxonomy\.file: .*nowhere\.yaml: cannot be read: No such file"):
        read_taxonomy(tmp_path / "nowhere.yaml")
