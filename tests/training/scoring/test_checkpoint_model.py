"""Several checkpoints open in one process, each the model that transformers makes of the same weights."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_ipt.models.families import FAMILIES
from tests.conftest import REPOSITORY

from .conftest import POSITIONS, VOCABULARY, make_requests, transformers_scores

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("megatron.core", reason="checkpoints need Megatron-Core")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folders(models: Callable[..., tuple[Path, Path]]) -> dict[str, tuple[Path, Path]]:
    """Hugging Face folder and checkpoints of every family; sizes differ, too."""
    changes: dict[str, dict[str, Any]] = {
        "qwen2": {"tie_word_embeddings": True, "hidden_size": 40},
        "qwen3": {"num_hidden_layers": 3},
    }
    return {family: models(family, **changes.get(family, {})) for family in FAMILIES}


@pytest.fixture(scope="module")
def found(folders: dict[str, tuple[Path, Path]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("several")
    path, damaged = folder / "folders.json", folder / "damaged"
    shutil.copytree(folders["llama"][1], damaged)
    (damaged / "release/model.json").unlink()
    path.write_text(json.dumps({family: str(checkpoints) for family, (_, checkpoints) in folders.items()}))
    program = Path(__file__).with_name("several_models.py")
    result = subprocess.run(
        [sys.executable, str(program), str(path), str(damaged)],
        env=dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(REPOSITORY)),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    answer: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return answer


def reference(folder: Path) -> Any:
    ids = torch.arange(2 * POSITIONS).view(2, POSITIONS) % VOCABULARY
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(ids).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_transformers(family: str, folders: Any, found: dict[str, Any]) -> None:
    expected = reference(folders[family][0])
    assert expected.std() > 0.5
    assert torch.allclose(torch.tensor(found["logits"][family]), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_transformers(family: str, folders: Any, found: dict[str, Any]) -> None:
    expected = transformers_scores(folders[family][0], make_requests())
    sums, counts = zip(*found["scores"][family])
    assert list(counts) == [tokens for _, tokens in expected]
    assert list(sums) == pytest.approx([total for total, _ in expected], rel=1e-5)
    for other in ("one by one", "at once"):
        assert [total for total, _ in found[other][family]] == pytest.approx(list(sums), rel=1e-5)


def test_models_do_not_disturb_each_other(found: dict[str, Any]) -> None:
    assert found["again"] == found["logits"]
    assert found["last"] == found["logits"][list(FAMILIES)[-1]]
    assert found["beside a training"] == found["logits"][next(iter(FAMILIES))]
    assert found["threads"] == [True, True]


def test_bf16_is_near_fp32_and_not_the_same(found: dict[str, Any]) -> None:
    sums = [total for total, _ in found["scores"]["llama"]]
    assert found["bf16"] == pytest.approx(sums, rel=0.05, abs=0.1)
    assert found["bf16"] != pytest.approx(sums, rel=1e-5)


def test_what_is_global_is_left_as_it_was(found: dict[str, Any]) -> None:
    torch.manual_seed(5)
    assert found["random"] == torch.rand(1).item()
    assert found["while open"] and not found["left"]
    assert found["training's groups"]


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (0, "InputError: logits: id 50 at position 1 is outside the vocabulary of 50"),
        (1, "InputError: logits: expected ids of shape [batch, seq], found [2]"),
        (2, "InputError: logits: the model would have to read 65 tokens and has 64 positions"),
        (3, "InputError: request 1: no token ids"),
        (4, "nowhere: no checkpoint found"),
        (5, "RecipeError: precision: 'fp8' is not one of fp32, bf16"),
        (6, "model.json"),
        (7, "StageError: this process is one of 2 ranks that hold one model together"),
    ],
)
def test_errors_say_what_is_wrong(index: int, message: str, found: dict[str, Any]) -> None:
    assert message in found["errors"][index]


def test_a_closed_model_says_so(found: dict[str, Any]) -> None:
    assert found["closed"].endswith("this CheckpointModel is closed; open the checkpoint again")
