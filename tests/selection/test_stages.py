"""Shards, resume, damage and everything that is refused by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_ipt.errors import InputError, RecipeError, StageError, UserError
from megatron_ipt.files import list_shards, read_json, read_jsonl, write_json
from megatron_ipt.pipeline import run_action, run_one, stage_of
from megatron_ipt.recipe import Recipe
from megatron_ipt.selection.rows import hash_of
from megatron_ipt.stages.page import StageRecord
from tests.selection.conftest import FIVE, REFERENCE, TEACHER, Build, run, unigrams

DIFFERENCE = {"rule": "difference", "share": 0.4}
MANY = {f"d{n}": "abcE"[n % 3] * (n % 5 + 1) + "ab" for n in range(50)}
SHARDED = {"shard_documents": 9, "synthesis_share": 0.6, "valid_share": 0.1}


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "manifest.json" and ".done.json" not in path.name
    }


def scored(recipe: Recipe) -> Path:
    return run(recipe, until="scoring")


@pytest.fixture
def renamed(build: Build, tmp_path: Path) -> Callable[..., Recipe]:
    """Recipes like each other but for their folders and what is given."""

    def make(name: str, **keys: Any) -> Recipe:
        sections = {"corpus": SHARDED, "output_dir": str(tmp_path / name)} | keys
        return build(MANY, unigrams(), {**DIFFERENCE, "rule": "difference"}, **sections)

    return make


def test_shares_of_the_work_give_the_same_files(renamed: Callable[..., Recipe]) -> None:
    whole = scored(renamed("whole"))
    parts = renamed("parts")
    run(parts, until="corpus")
    stage = stage_of(parts, "score")
    run_one(stage, parts, unit="reference", shard=(1, 2))
    run_one(stage, parts, shard=(2, 3))
    run_one(stage, parts, unit="reference")
    run_one(stage, parts, shard=(0, 3))
    folder = scored(parts)
    assert len(list((whole / "scoring" / "teacher").glob("*.npy"))) > 3
    assert files_of(whole / "scoring") == files_of(folder / "scoring")


def test_a_killed_run_resumes_with_the_shard_it_was_at(
    renamed: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    from megatron_ipt.selection import scoring

    whole = scored(renamed("whole"))
    recipe = renamed("killed")
    calls = 0
    save = scoring.save_rows

    def dies(rows: Any, stream: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        save(rows, stream)

    monkeypatch.setattr(scoring, "save_rows", dies)
    with pytest.raises(KeyboardInterrupt):
        scored(recipe)
    before = calls
    folder = scored(recipe)
    shards = len(list((whole / "scoring").rglob("*.npy")))
    # The shard that was lost is scored again, and no other.
    assert calls - before == shards - 3
    assert files_of(whole / "scoring") == files_of(folder / "scoring")


def test_a_scorer_that_is_added_leaves_the_others_as_they_are(build: Build) -> None:
    folder = scored(build(FIVE, {"teacher": {"options": {"table": TEACHER}}}, {}))
    array = folder / "scoring" / "teacher" / "synthesis-00000.npy"
    before = array.stat().st_mtime_ns
    scored(build(FIVE, unigrams(), {}))
    assert array.stat().st_mtime_ns == before
    assert (folder / "scoring" / "reference" / "synthesis-00000.npy").exists()


def test_a_scorer_that_has_changed_is_refused(build: Build) -> None:
    scored(build(FIVE, unigrams(), {}))
    changed = unigrams()
    changed["teacher"]["options"] = {"table": REFERENCE}
    with pytest.raises(StageError, match=r"input scoring\.scorers\.teacher: changed"):
        scored(build(FIVE, changed, {}))


def test_nan_names_shard_and_row(build: Build) -> None:
    scorers = {"teacher": {"engine": "tests.selection.conftest:Broken"}}
    with pytest.raises(StageError, match=r"shard-00000\.jsonl: row 2 \(id d3\): the scorer teacher gave NaN"):
        scored(build(["ab", "abc", "azb"], scorers, {}))


def test_refused_and_empty_documents_are_never_kept(build: Build) -> None:
    generation = {"max_refused_share": 0.5}
    scorers = {"teacher": {"engine": "tests.selection.conftest:Broken", "generation": generation}}
    folder = run(build(["ab", "ayb", "a", "abc"], scorers, {"rule": "top_k", "share": 1.0, "per": "document"}))
    counts = read_json(folder / "selection" / "manifest.json")["counts"]
    assert counts["dropped"] == {"nothing to predict": 1, "refused by the engine": 1}
    assert counts["kept"] == 2
    left_out = list(read_jsonl(folder / "selection" / "left_out" / "synthesis-00000.jsonl"))
    assert [(record["id"], record["reason"]) for record in left_out] == [
        ("d2", "refused by the engine"),
        ("d3", "nothing to predict"),
    ]
    assert left_out[0]["score"] is None


def test_too_many_refused_documents_end_the_stage(build: Build) -> None:
    scorers = {"teacher": {"engine": "tests.selection.conftest:Broken"}}
    with pytest.raises(StageError, match="refused 2 of 3 texts"):
        scored(build(["ayb", "ay", "ab"], scorers, {}))


def test_what_a_scorer_was_trained_on_is_not_scored(build: Build, tmp_path: Path) -> None:
    slice_ = {"slice": [0.0, 0.3], "valid_share": 0.0}
    reference = run(build(MANY, {}, {}, corpus=slice_, output_dir=str(tmp_path / "reference")), until="corpus")
    seen = {record["id"] for shard in list_shards(reference / "corpus" / "synthesis") for record in read_jsonl(shard)}
    scorers = unigrams(trained_on=str(reference / "corpus"))
    with pytest.raises(InputError, match=r"was in the training data of the scorer teacher .*corpus\.slice"):
        scored(build(MANY, scorers, {}))
    rest = scored(build(MANY, scorers, {}, corpus={"slice": [0.3, 1.0]}, output_dir=str(tmp_path / "rest")))
    others = {record["id"] for shard in list_shards(rest / "corpus" / "synthesis") for record in read_jsonl(shard)}
    assert len(seen) > 5 and len(others) > 5
    assert seen | others == MANY.keys() and not seen & others


def test_an_empty_slice_is_named(build: Build) -> None:
    with pytest.raises(InputError, match=r"corpus\.slice: .*all 5 documents lie outside"):
        scored(build(FIVE, unigrams(), {}, corpus={"slice": [0.0, 1e-9]}))


def test_ids_beyond_the_vocabulary_are_named(build: Build, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    write_json(tmp_path / "model" / "config.json", {"vocab_size": 3})
    scorers = unigrams(generation={"model": str(tmp_path / "model")})
    with pytest.raises(InputError, match=r"row 1 \(id d2\): the tokenizer made id 3.*vocabulary of 3"):
        scored(build(FIVE, scorers, {}))


def test_windows_longer_than_the_engine_can_score(build: Build) -> None:
    with pytest.raises(RecipeError, match=r"scoring\.scorers\.teacher\.seq_length: 128 .* set it to 127 or less"):
        scored(build(FIVE, unigrams(seq_length=128), {}))


def test_an_unknown_scorer_on_the_command_line(build: Build) -> None:
    recipe = build(FIVE, unigrams(), {})
    run(recipe, until="corpus")
    with pytest.raises(RecipeError, match=r"--scorer: 'techer' .*Did you mean teacher"):
        run_one(stage_of(recipe, "score"), recipe, unit="techer")


Change = dict[str, Any]


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({"rule": "difference", "teacher": "tutor"}, r"selection\.teacher: 'tutor' is not a scorer; there are teacher"),
        ({"rule": "top_k"}, r"selection\.scorer: name one of the scorers \(teacher, reference\)"),
        ({"rule": "difference", "share": 0.1}, r"selection\.share: 0\.1 of 5 documents is less than one"),
        ({"rule": "gumbel", "scorer": "teacher", "temperature": 0.0}, r"selection\.temperature: 0 is not above 0"),
        ({"rule": "difference", "reference": "teacher"}, r"selection\.reference: is 'teacher', like the teacher"),
        ({"rule": "scores"}, r"selection\.scores: required"),
        ({"rule": "top_k", "scorer": "teacher", "scores": "x"}, r"selection\.scores: is set, but the rule is top_k"),
        ({"rule": "random", "share_of": "tokens"}, r"selection\.share_of: tokens are counted by a scorer"),
        (
            {"rule": "difference", "compare_with": {"scorer": "x"}},
            r"compare_with\.scorer: is not .* reads teacher, ref",
        ),
        ({"rule": "difference", "domain_minimum": 0.6}, r"selection\.domain_minimum: 0\.6 is more than share=0\.5"),
        ({"rule": "difference", "domain_shares": {"code": 0.5}}, r"domain_shares\.code: no training document has"),
        ({"rule": "difference", "share_of": "bytes", "share": 0.1}, "keeps no document: the first is larger"),
    ],
)
def test_impossible_selections(build: Build, selection: Change, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(build(FIVE, unigrams(), selection))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"id": "x", "score": 1}', "none of its 1 ids is that of a training document"),
        ('{"id": "d1", "score": 1}\n{"id": "d1", "score": 2}', "1 ids occur more than once"),
        ('{"id": "d1"}', r"scores\.jsonl:1: expected an object with id and score"),
        ('{"id": "d1", "score": "much"}', r"scores\.jsonl:1: expected a string as id and a number"),
        ("nonsense", r"scores\.jsonl:1"),
        ('{"id": "d1", "score": 1}\n{"id": "d2", "score": 1}', "all 2 scores are 1, so they do not say which"),
    ],
)
def test_files_of_scores_that_cannot_be_used(build: Build, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "scores.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        run(build(FIVE, {}, {"rule": "scores", "scores": str(path)}))


@pytest.mark.parametrize("kind", ["strings", "hashes"])
def test_scores_of_an_array(build: Build, tmp_path: Path, kind: str) -> None:
    names = ["d4", "d2", "d5", "elsewhere"]
    ids = np.array(names) if kind == "strings" else np.array([hash_of(name) for name in names], np.uint64)
    table = np.empty(4, [("id", ids.dtype), ("score", "f4")])
    table["id"], table["score"] = ids, [1, 3, 2, 9]
    np.save(tmp_path / "scores.npy", table)
    folder = run(build(FIVE, {}, {"rule": "scores", "scores": str(tmp_path / "scores.npy"), "share": 0.4}))
    details = read_json(folder / "selection" / "selection.json")
    assert [sample["id"] for sample in details["samples"]["top"]] == ["d2", "d5", "d4"]
    assert details["kept"] == 2
    assert details["left_out"] == {"not in the file of scores": 2, "below the cut": 1}
    assert details["unmatched_scores"] == 1


def test_scores_of_another_corpus_are_refused(build: Build) -> None:
    recipe = build(FIVE, unigrams(), DIFFERENCE)
    folder = scored(recipe)
    manifest = read_json(folder / "scoring" / "manifest.json")
    manifest["counts"]["scorers"]["teacher"]["corpus_identity"] = "other"
    write_json(folder / "scoring" / "manifest.json", manifest)
    with pytest.raises(StageError, match="the scores of teacher are of other data"):
        run(recipe)


def test_scores_of_another_run_over_the_same_corpus(build: Build, tmp_path: Path) -> None:
    folder = run(build(FIVE, unigrams(), DIFFERENCE))
    scored_in = DIFFERENCE | {"scored_in": str(folder / "scoring")}
    again = run(build(FIVE, {}, scored_in, output_dir=str(tmp_path / "again")))
    assert not (again / "scoring").exists()
    assert files_of(again / "selection") == files_of(folder / "selection")
    other_seed = run(build(FIVE, {}, scored_in, output_dir=str(tmp_path / "seed"), seed=99))
    assert files_of(other_seed / "selection") == files_of(folder / "selection")
    with pytest.raises(StageError, match="the scores of teacher are of other data"):
        run(build(FIVE[::-1], {}, scored_in, output_dir=str(tmp_path / "other")))
    with pytest.raises(StageError, match="nowhere: this stage is not complete"):
        run(build(FIVE, {}, DIFFERENCE | {"scored_in": str(tmp_path / "nowhere")}, output_dir=str(tmp_path / "none")))


def test_a_missing_shard_is_named(build: Build) -> None:
    recipe = build(FIVE, unigrams(), DIFFERENCE)
    folder = scored(recipe)
    (folder / "scoring" / "reference" / "synthesis-00000.done.json").unlink()
    with pytest.raises(StageError, match=r"synthesis-00000 is not scored; run .* --scorer reference"):
        run(recipe)


@pytest.mark.parametrize("damage", ["truncated", "other ids", "other counts"])
def test_damaged_scores_are_named(build: Build, damage: str) -> None:
    recipe = build(FIVE, unigrams(), DIFFERENCE)
    folder = scored(recipe)
    path = folder / "scoring" / "reference" / "synthesis-00000.npy"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        rows = np.load(path)
        rows["id" if damage == "other ids" else "tokens"][3] += 1
        np.save(path, rows)
    message = "row 3: teacher counted 5 tokens and reference 6" if damage == "other counts" else "synthesis-00000.npy: "
    with pytest.raises(StageError, match=message):
        run(recipe)


def test_documents_that_changed_after_they_were_scored_are_noticed(build: Build) -> None:
    recipe = build(FIVE, unigrams(), DIFFERENCE)
    folder = scored(recipe)
    (shard,) = list_shards(folder / "corpus" / "synthesis")
    shard.write_text(shard.read_text().replace('"d4"', '"d6"'))
    with pytest.raises(StageError, match="holds other documents than those that were scored"):
        run(recipe)


@pytest.mark.parametrize(
    ("scorer", "selection", "message"),
    [
        ({"eod_mask": False}, {}, "was scored with mask eod inputs and reference with none"),
        ({"seq_length": 2}, {}, "with seq_length 127 and reference with 2"),
    ],
)
def test_scorers_that_cannot_be_compared(build: Build, scorer: Change, selection: Change, message: str) -> None:
    scorers = unigrams()
    scorers["reference"] |= scorer
    with pytest.raises(RecipeError, match=message):
        run(build(FIVE, scorers, DIFFERENCE | selection))


def test_different_tokenizers_are_compared_per_byte_only(build: Build, letter_tokenizer: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for path in letter_tokenizer.iterdir():
        (other / path.name).write_bytes(path.read_bytes() + b" ")

    def recipe(mask: bool, **selection: Any) -> Recipe:
        scorers = unigrams(eod_mask=mask)
        scorers["reference"]["generation"] = {"tokenizer": str(other)}
        return build(FIVE, scorers, DIFFERENCE | selection, output_dir=str(tmp_path / f"run-{mask}"))

    with pytest.raises(RecipeError, match=r"selection\.per: .*different tokenizers"):
        run(recipe(True))
    with pytest.raises(RecipeError, match=r"eod_mask: 2 tokens were not counted"):
        run(recipe(True, per="byte"), overwrite=True)
    with pytest.raises(RecipeError, match=r"selection\.share_of: .*whose tokens"):
        run(recipe(False, per="byte", share_of="tokens"))
    details = read_json(run(recipe(False, per="byte"), overwrite=True) / "selection" / "selection.json")
    # Twice ln 2 in the four bytes of "baab", and once in the two of "aa".
    best = {sample["id"]: sample["score"] for sample in details["samples"]["top"][:2]}
    assert best == pytest.approx({"d1": math.log(2) / 2, "d3": math.log(2) / 2})


def test_quotas_and_minimums_of_domains(build: Build) -> None:
    """Scores fall from d0 to d19; every fourth document is code, the rest prose, but the last four are poems."""
    documents = {
        f"d{n}": {"text": "ab", "domain": "poems" if n > 15 else "code" if n % 4 == 0 else "prose"} for n in range(20)
    }

    def names(tmp: Path, **selection: Any) -> set[str]:
        path = tmp / "scores.jsonl"
        path.write_text("".join(f'{{"id": "d{n}", "score": {-n}}}\n' for n in range(20)))
        recipe = build(documents, {}, {"rule": "scores", "scores": str(path)} | selection)
        folder = run(recipe, overwrite=True)
        return {
            record["id"] for shard in list_shards(folder / "selection" / "synthesis") for record in read_jsonl(shard)
        }

    tmp = Path(build(documents, {}, {"rule": "random"}).output_dir).parent
    assert names(tmp, share=0.25) == {"d0", "d1", "d2", "d3", "d4"}
    # All code, and a quarter of the 16 others.
    assert names(tmp, share=0.25, domain_shares={"code": 1.0}) == {"d0", "d4", "d8", "d12", "d1", "d2", "d3", "d5"}
    # One poem of four, and one or more of each of the others anyway.
    assert names(tmp, share=0.25, domain_minimum=0.25) == {"d0", "d1", "d2", "d3", "d16"}
    assert names(tmp, share=0.25, prefer="low") == {"d15", "d16", "d17", "d18", "d19"}


def test_a_budget_of_tokens_keeps_the_beginning_of_the_order(build: Build) -> None:
    """r of aa, baab, caabac, aEa, bcEa in order; 1, 3, 5, 1 and 2 predicted tokens: 12 in all."""
    folder = run(build(FIVE, unigrams(), {"rule": "difference", "share": 0.5, "share_of": "tokens"}))
    details = read_json(folder / "selection" / "selection.json")
    # Six tokens: 1 and 3 fit, the next 5 do not, and what comes after them is not looked at.
    assert (details["kept"], details["kept_tokens"], details["total"]) == (2, 4, 12)


def test_random_and_gumbel_depend_on_ids_alone(build: Build, tmp_path: Path) -> None:
    found = []
    for order in (1, -1):
        documents = dict(list(MANY.items())[::order])
        ids = []
        for rule in ({"rule": "random"}, {"rule": "gumbel", "scorer": "teacher", "temperature": 1.0}):
            corpus = SHARDED if order == 1 else {"valid_share": 0.1, "shard_documents": 20}
            keys = {"corpus": corpus, "output_dir": str(tmp_path / f"{order}{rule['rule']}")}
            folder = run(build(documents, unigrams(), rule | {"share": 0.3}, **keys))
            ids.append(
                {
                    record["id"]
                    for lane in ("synthesis", "raw")
                    for shard in list_shards(folder / "selection" / lane)
                    for record in read_jsonl(shard)
                }
            )
        found.append(ids)
    assert found[0] == found[1]
    assert found[0][0] != found[0][1]


def test_a_dry_run_says_what_would_be_kept_and_writes_nothing(build: Build) -> None:
    from megatron_ipt.selection.findings.text import decision_text

    recipe = build(FIVE, unigrams(), DIFFERENCE)
    folder = scored(recipe)
    stage = stage_of(recipe, "select")
    found = run_action(stage, recipe, next(action for action in stage.actions if action.option == "--dry-run"))
    assert not (folder / "selection").exists()
    assert (found["kept"], found["rows"], found["kept_tokens"], found["tokens"]) == (2, 5, 4, 12)
    assert found["left_out"] == {"below the cut": 3}
    assert sum(decile["rows"] for decile in found["by_length"]) == 5
    assert "2 of 5 training documents would be kept" in decision_text(found)


def test_documents_that_would_change_sides(build: Build) -> None:
    from megatron_ipt.selection.findings.report import part
    from megatron_ipt.selection.findings.text import decision_text

    table = {"a": 0.4, "b": 0.2, "c": 0.1, "E": 0.3}
    scorers = unigrams() | {"other": {"options": {"table": table}}}
    recipe = build(FIVE, scorers, {"rule": "difference", "share": 0.6, "compare_with": {"teacher": "other"}})
    folder = run(recipe)
    stage = stage_of(recipe, "select")
    # By hand, in ln 2: c costs 2 instead of 1 and E gains .585: (2/3, -.71, 1, .2, .585).
    compared = read_json(folder / "selection" / "selection.json")["compared"]
    assert compared == {
        "with": {"teacher": "other"}, "kept_by_both": 2, "kept_by_other": 3, "changed_sides": 2,
    }  # fmt: skip
    found = run_action(stage, recipe, next(action for action in stage.actions if action.option == "--dry-run"))
    assert "with teacher other, 2 documents would change sides" in decision_text(found)
    shown = part(StageRecord(stage, folder / "selection", read_json(folder / "selection" / "manifest.json")))
    assert "40.0%" in repr(shown.elements[0])


def test_texts_at_the_top_at_the_cut_and_at_the_bottom(build: Build) -> None:
    from megatron_ipt.selection.findings.text import samples_text

    recipe = build(FIVE, unigrams(), DIFFERENCE | {"samples": 2})
    run(recipe)
    stage = stage_of(recipe, "select")
    found = run_action(stage, recipe, next(action for action in stage.actions if action.option == "--show"))
    ids = {place: [sample["id"] for sample in samples] for place, samples in found["samples"].items()}
    assert ids == {"top": ["d3", "d1"], "cut": ["d1", "d4"], "bottom": ["d5", "d2"]}
    text = samples_text(found)
    assert "score 0.693, teacher -0.916, reference -1.609 nats per token, kept" in text


def test_the_report(build: Build) -> None:
    from megatron_ipt.selection.findings.report import part, scoring_part

    documents = {name: {"text": text, "domain": "even" if len(text) % 2 else "odd"} for name, text in MANY.items()}
    recipe = build(documents, unigrams(), {"rule": "difference", "share": 0.5}, corpus=SHARDED)
    folder = run(recipe)
    for name, make in (("score", scoring_part), ("select", part)):
        stage = stage_of(recipe, name)
        manifest = read_json(folder / stage.name / "manifest.json")
        shown = make(StageRecord(stage, folder / stage.name, manifest))
        assert shown.title and shown.step and shown.headline
        # By what it says: NaN, where nothing was measured, is not equal to itself.
        assert repr(shown) == repr(make(StageRecord(stage, folder / stage.name, manifest)))
        assert make(StageRecord(stage, folder / "nowhere", {})).elements == ()
    text = repr(shown)
    for word in ("Documents by score", "reference against teacher", "Kept by domain", "Texts around the cut"):
        assert word in text
    details = read_json(folder / "selection" / "selection.json")
    assert sum(details["histogram"]["rows"]) == details["rows"]
    assert sum(details["histogram"]["kept"]) == details["kept"]
    assert sum(counts["kept"] for counts in details["by_domain"].values()) == details["kept"]


def test_a_score_that_follows_length_is_warned_of(build: Build, tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    path.write_text("".join(f'{{"id": "{name}", "score": {len(text)}}}\n' for name, text in MANY.items()))
    folder = run(build(MANY, {}, {"rule": "scores", "scores": str(path)}))
    (warning,) = read_json(folder / "selection" / "selection.json")["warnings"]
    assert warning.startswith("the score mostly follows length: rank correlation +1.00")
