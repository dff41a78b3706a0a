"""Every checkpoint of a training is exported and measured once: with real checkpoints, real exports, real losses."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from megatron_ipt.convert.commands import import_model  # noqa: E402
from megatron_ipt.errors import InputError  # noqa: E402
from megatron_ipt.evaluation.curves import CURVES, measure_checkpoints, measure_once  # noqa: E402
from megatron_ipt.evaluation.language_model import LanguageModel  # noqa: E402
from megatron_ipt.files import read_json  # noqa: E402
from megatron_ipt.training.checkpoints.model_file import ModelFile  # noqa: E402

IDS = np.random.default_rng(0).integers(3, 380, 60)
STEPS = (10, 20, 30)


@pytest.fixture(scope="module")
def training(tiny_model, tmp_path_factory):
    """Checkpoints of three steps, each another model, and the losses of these models by transformers."""
    root = tmp_path_factory.mktemp("training")
    losses = {}
    for step in STEPS:
        source = root / f"model-{step}"
        shutil.copytree(tiny_model, source)
        torch.manual_seed(step)
        config = transformers.AutoConfig.from_pretrained(source)
        model = transformers.MistralForCausalLM(config).eval()
        model.save_pretrained(source)
        with torch.no_grad():
            losses[step] = model(torch.tensor(IDS)[None], labels=torch.tensor(IDS)[None]).loss.item()
        import_model(source, root / "imported", overwrite=True)
        folder = root / "checkpoints" / f"iter_{step:07d}"
        shutil.copytree(root / "imported" / "release", folder)
        values = ModelFile.read(folder)
        dataclasses.replace(values, iteration=step, consumed_tokens=1000 * step).write(folder)
    return root / "checkpoints", losses


def measure(folder):
    return {"perplexity": {"set": LanguageModel(folder).loss(IDS, 64, "test")}}


def run(training, tokenizer, directory, measure):
    return measure_checkpoints(training[0], tokenizer, "auto", directory, measure)


def test_every_checkpoint_has_the_loss_of_its_model(training, tiny_model, tmp_path):
    curves = run(training, tiny_model, tmp_path, measure)
    assert curves == read_json(tmp_path / CURVES)
    assert [(p["checkpoint"], p["iteration"], p["tokens"]) for p in curves["checkpoints"]] == [
        ("iter_0000010", 10, 10_000), ("iter_0000020", 20, 20_000), ("iter_0000030", 30, 30_000),
    ]  # fmt: skip
    found = [point["perplexity"]["set"]["loss"] for point in curves["checkpoints"]]
    assert found == pytest.approx([training[1][step] for step in STEPS], abs=1e-5)
    # The exports are gone; only results stay.
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {CURVES, *(f"checkpoints/iter_{step:07d}.json" for step in STEPS)}


def test_no_checkpoint_is_measured_twice(training, tiny_model, tmp_path):
    asked = []

    def interrupted(folder):
        asked.append(folder)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return measure(folder)

    # The exported one is measured first, from the folder of the stage export.
    known = measure_once(tmp_path, training[0] / "iter_0000030", lambda: {"perplexity": {"set": {"loss": 1.5}}})
    assert known["tokens"] == 30_000
    with pytest.raises(KeyboardInterrupt):
        run(training, tiny_model, tmp_path, interrupted)
    assert not (tmp_path / CURVES).exists()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]
    curves = run(training, tiny_model, tmp_path, interrupted)
    assert len(asked) == 3  # iter 10, the interrupted iter 20, and iter 20 again
    assert [point["perplexity"]["set"]["loss"] for point in curves["checkpoints"]][2] == 1.5
    run(training, tiny_model, tmp_path, interrupted)
    assert len(asked) == 3


def test_a_training_without_checkpoints_is_named(tmp_path, tiny_model):
    with pytest.raises(InputError, match="contains no checkpoints to measure"):
        measure_checkpoints(tmp_path, tiny_model, "auto", tmp_path, measure)
