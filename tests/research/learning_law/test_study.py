"""Whole studies: the command, kill and resume, the transformer, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from megatron_ipt.cli import cli
from megatron_ipt.errors import InputError, RecipeError, StageError
from megatron_ipt.files import read_json
from megatron_ipt.research.learning_law import policy, study
from megatron_ipt.research.learning_law.config import load_policy
from megatron_ipt.research.learning_law.policy import gradient, uniform
from megatron_ipt.research.learning_law.transformer import damage, sentences
from megatron_ipt.seeding import generator
from megatron_ipt.training.policy_file import read_policy

SMALL = ("perceptron={width: 4, examples: 40, desired: 200}", "steps=30", "epochs=12", "policy_learning_rate=0.001",
         "snapshots=3")  # fmt: skip


def settings(folder, *overrides):
    return load_policy({"output_dir": str(folder)}, [*SMALL, *overrides])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    study.run_study(settings(folder))
    return folder


def test_a_study_of_the_perceptron(whole):
    results = read_json(whole / study.RESULTS)
    assert results["area"]["policy"] < results["area"]["conventional"]
    assert results["optimality"]["gap"] < results["optimality"]["first_gap"]
    assert results["last_loss"]["policy"] < results["last_loss"]["conventional"] and results["speed_up"]["test"] > 1
    assert results["compression"]["policy"] > results["compression"]["conventional"]
    assert results["speed_up"]["desired"] > 1
    assert sum(results["desired"]["policy"]) / 30 == pytest.approx(results["area"]["policy"], rel=1e-12)
    assert sum(results["desired"]["conventional"]) / 30 == pytest.approx(results["area"]["conventional"], rel=1e-12)
    assert len(results["test"]["policy"]) == 31 and results["epochs"] == 12
    assert [point["epoch"] for point in results["points"]] == sorted(study.snapshots(12, 3)) == [0, 2, 5, 12]
    assert results["points"][-1]["compression"] == pytest.approx(results["compression"]["policy"], rel=1e-12)
    weights = read_policy(whole / study.POLICY)
    model, _ = study.build(settings(whole))
    again = gradient(model, torch.from_numpy(weights.copy()))
    assert again.area == results["area"]["policy"]
    assert (whole / "study.png").stat().st_size > 20_000


class Killed(BaseException):
    pass


@pytest.mark.parametrize("at", [1, 11])
def test_a_killed_search_gives_the_same_bytes(whole, tmp_path, monkeypatch, at):
    calls = []
    computed = policy.gradient

    def dies(*arguments):
        calls.append(1)
        if len(calls) == at + 2:
            raise Killed
        return computed(*arguments)

    monkeypatch.setattr(policy, "gradient", dies)
    with pytest.raises(Killed):
        study.run_study(settings(tmp_path / "cut", "save_minutes=0"))
    assert not (tmp_path / "cut" / study.RESULTS).exists()
    monkeypatch.setattr(policy, "gradient", computed)
    study.run_study(settings(tmp_path / "cut"))
    for name in (study.RESULTS, "policy/weights.npy", "policy/policy.json", "study.png", "study.svg"):
        assert (whole / name).read_bytes() == (tmp_path / "cut" / name).read_bytes(), name


def test_more_passes_continue_a_finished_search(whole, tmp_path):
    first = study.run_study(settings(tmp_path, "epochs=2"))
    more = study.run_study(settings(tmp_path, "epochs=4"))
    expected = read_json(whole / study.RESULTS)["history"]
    assert first["history"] == expected[:3] and more["history"] == expected[:5]


def test_other_settings_are_refused(tmp_path):
    study.run_study(settings(tmp_path, "epochs=1"))
    with pytest.raises(StageError, match=r"search.npz: is a search with other settings \(learning_rate\)"):
        study.run_study(settings(tmp_path, "learning_rate=0.2"))
    assert study.run_study(settings(tmp_path, "learning_rate=0.2", "epochs=1"), overwrite=True)["epochs"] == 1
    (tmp_path / study.STATE).write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"search.npz: cannot be read"):
        study.run_study(settings(tmp_path))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model=transformer", r"transformer\.text: required"),
        ("model=mlp", "'mlp' is not one of perceptron, transformer"),
        ("learning_rate=0", "learning_rate: must be above 0"),
        ("steps=0", "steps: 0 is below the minimum 1"),
        ("transformer.head=2", "Did you mean transformer.heads"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, override, message):
    with pytest.raises(RecipeError, match=message):
        settings(tmp_path, override)


def test_the_command(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text(
        f"output_dir: {tmp_path}/out\nsteps: 10\nepochs: 1\nperceptron: {{width: 4, examples: 9, desired: 9}}\n"
    )
    outcome = CliRunner().invoke(cli, ["policy", str(path)], catch_exceptions=False)
    lines = outcome.stdout.splitlines()
    assert lines[0] == "| | conventional | policy |" and lines[-1] == f"figure  {tmp_path}/out/study.png"
    outcome = CliRunner().invoke(cli, ["policy", str(path), "epochs=2", "--json"], catch_exceptions=False)
    assert json.loads(outcome.stdout)["epochs"] == 2


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A hundred sentences of a small grammar."""
    draws = generator(1, "grammar")
    words = [["the", "a"], ["ferry", "bridge", "tower", "river"], ["crosses", "meets", "leaves"], ["the", "a"],
             ["town", "harbour", "valley"], ["slowly", "at noon", "in May"]]  # fmt: skip
    lines = {" ".join(draws.choice(slot) for slot in words) + "." for _ in range(300)}
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(" ".join(sorted(lines)))
    return path


def language_model(folder, text, *overrides):
    shape = "{vocabulary: 30, width: 8, heads: 2, layers: 2, max_tokens: 12, examples: 24, desired: 12, edits: 6}"
    return load_policy(
        {"output_dir": str(folder), "model": "transformer"},
        [f"transformer={shape}", f"transformer.text={text}", "steps=6", "epochs=3", "learning_rate=0.5",
         "policy_learning_rate=1e-3",
         *overrides],
    )  # fmt: skip


def test_a_study_of_the_transformer(tmp_path, text):
    results = study.run_study(language_model(tmp_path, text, "precision=fp32"))
    assert results["model"] == "transformer" and results["examples"] == 24
    assert results["area"]["policy"] < results["area"]["conventional"]
    # Less weight on what is damaged than a uniform policy would give.
    _, damaged = study.build(language_model(tmp_path, text))
    assert 0 < results["weight_of_damaged"] < sum(damaged) / 24


def test_the_gradient_of_the_transformer_is_a_difference_of_areas(tmp_path, text):
    """transformers' norms go through fp32, so not to the last digit."""
    model, _ = study.build(language_model(tmp_path, text))
    weights = uniform(4, 24)
    found = gradient(model, weights)
    move = torch.zeros_like(weights)
    move[1, 3], move[1, 7], move[3, 2], move[3, 9] = 1e-3, -1e-3, 2e-3, -2e-3
    ahead, behind = gradient(model, weights + move), gradient(model, weights - move)
    assert (behind.area - ahead.area) / 2 == pytest.approx(float((found.gains * move).sum()), rel=2e-3)
    other, _ = study.build(language_model(tmp_path, text, "transformer.micro_batch_size=7"))
    assert (gradient(other, weights).gains - found.gains).abs().max() < 1e-6 * found.gains.abs().max()


def test_sentences_and_damage(text, tmp_path):
    assert sentences("One two three four five. Too short. One two three four five. He said: 'so it was'!") == [
        ["one", "two", "three", "four", "five", "."], ["he", "said", ":", "'", "so", "it", "was", "'", "!"],
    ]  # fmt: skip
    draws = generator(3, "damage")
    ids = list(range(2, 12))
    damaged = [damage(ids, 20, 30, draws) for _ in range(50)]
    assert all(2 <= token < 30 and row for row in damaged for token in row)
    assert ids == list(range(2, 12)) and all(row != ids for row in damaged)
    assert 5 < np.mean([len(row) for row in damaged]) < 15
    with pytest.raises(InputError, match=r"few.txt: has 1 different sentences of 5 words or more; 48 are needed"):
        (tmp_path / "few.txt").write_text("One two three four five.")
        study.build(language_model(tmp_path, tmp_path / "few.txt"))
    with pytest.raises(InputError, match=r"nowhere.txt: cannot be read as UTF-8 text"):
        study.build(language_model(tmp_path, tmp_path / "nowhere.txt"))
