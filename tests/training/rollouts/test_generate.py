"""Texts and logits of cached decoding, held against transformers with the same weights, under several layouts."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_ipt.models.families import FAMILIES
from megatron_ipt.training.ranks import local
from tests.conftest import REPOSITORY

from .texts import END, PIECES, POSITIONS, prompts, whole_text

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("megatron.core", reason="decoding needs Megatron-Core")
pytestmark = pytest.mark.slow

LAYOUTS: dict[str, dict[str, Any]] = {
    "one": {},
    "sequence": {"tensor_model_parallel_size": 2, "sequence_parallel": True},
    "pipeline": {"pipeline_model_parallel_size": 2},
}
PARALLEL = {"sequence": ("qwen3", "mixtral"), "pipeline": ("qwen2",)}
"""Families for each layout of two ranks; a single rank has all."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    """Hugging Face folders and checkpoints of a model and a teacher of every family."""
    from megatron_ipt.convert.commands import import_model
    from tests.convert.models import make_model, save

    root = tmp_path_factory.mktemp("decoding")
    made = {}
    for family in FAMILIES:
        changes: dict[str, Any] = {"tie_word_embeddings": True} if family == "qwen2" else {}
        changes |= {"num_local_experts": 4} if family == "mixtral" else {}
        save(root / family, family, **changes)
        teacher = make_model(family, **changes)
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in teacher.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        teacher.save_pretrained(root / f"{family}-teacher")
        for name in (family, f"{family}-teacher"):
            import_model(root / name, root / f"{name}-checkpoints")
        made[family] = {"model": root / family, "teacher": root / f"{family}-teacher"}
    return made


@pytest.fixture(scope="module")
def found(
    folders: dict[str, dict[str, Path]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], dict[str, Any]]:
    root = tmp_path_factory.mktemp("found")

    @cache
    def run(ranks: int) -> None:
        jobs = []
        for layout in PARALLEL if ranks > 1 else ("one",):
            checkpoints = {
                family: [f"{folder}-checkpoints/release" for folder in folders[family].values()]
                for family in PARALLEL.get(layout, FAMILIES)
            }
            jobs.append({"parallel": LAYOUTS[layout], "families": checkpoints, "output": str(root / layout)})
        path = root / f"jobs-{ranks}.json"
        path.write_text(json.dumps(jobs))
        result = subprocess.run(
            local.command(ranks, "tests.training.rollouts.texts", path),
            env=local.environment(ranks) | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
            cwd=REPOSITORY, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr[-3000:]

    def found_in(layout: str) -> dict[str, Any]:
        run(1 if layout == "one" else 2)
        answer: dict[str, Any] = json.loads((root / layout).read_text())
        return answer

    return cache(found_in)


@cache
def reference(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def greedy(folder: Path, prompt: list[int]) -> list[int]:
    ids = torch.tensor([prompt])
    new = min(25, POSITIONS - len(prompt))
    texts = reference(folder).generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False, pad_token_id=END
    )
    answer: list[int] = texts[0, len(prompt) :].tolist()
    return answer


def cases(*layouts: str) -> list[tuple[str, str]]:
    return [(layout, family) for layout in layouts for family in PARALLEL.get(layout, FAMILIES)]


@pytest.mark.parametrize(("layout", "family"), cases(*LAYOUTS))
def test_greedy_texts_are_those_of_transformers(
    layout: str, family: str, folders: dict[str, dict[str, Path]], found: Callable[[str], dict[str, Any]]
) -> None:
    texts = found(layout)[family]
    for kind, which in (("greedy", "model"), ("teacher", "teacher"))[: 2 if layout == "one" else 1]:
        expected = [greedy(folders[family][which], prompt) for prompt in prompts()]
        assert [text["ids"] for text in texts[kind]] == expected
        assert [text["finished"] for text in texts[kind]] == [ids[-1] == END for ids in expected]
        lengths = {len(ids) for ids in expected}
        assert len(lengths) > 3 and max(lengths) == 25 and 1 in lengths
    assert texts["left"] == [layout == "sequence", False]


@pytest.mark.parametrize(("layout", "family"), cases(*LAYOUTS))
def test_logits_in_pieces_are_those_at_once(
    layout: str, family: str, folders: dict[str, dict[str, Path]], found: Callable[[str], dict[str, Any]]
) -> None:
    with torch.no_grad():
        whole = reference(folders[family]["model"])(torch.tensor([whole_text()])).logits[0]
    expected = whole[torch.tensor(np.cumsum(PIECES) - 1)]
    assert expected.std() > 0.5
    assert torch.allclose(torch.tensor(found(layout)[family]["steps"]), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_does_not_depend_on_its_batch(family: str, found: Callable[[str], dict[str, Any]]) -> None:
    texts = {kind: [text["ids"] for text in found("one")[family][kind]] for kind in ("sampled", "alone", "some")}
    assert texts["alone"] == texts["sampled"]
    assert texts["some"] == texts["sampled"][2:7]
    assert texts["sampled"] != [text["ids"] for text in found("one")[family]["greedy"]]
    assert texts["sampled"][0] != texts["sampled"][1]


@pytest.mark.parametrize(("layout", "family"), cases("sequence", "pipeline"))
def test_texts_do_not_depend_on_the_layout(layout: str, family: str, found: Callable[[str], dict[str, Any]]) -> None:
    one, other = found("one")[family]["mixed"], found(layout)[family]["mixed"]
    assert [text["ids"] for text in other] == [text["ids"] for text in one]
    for first, second in zip(one, other):
        assert np.allclose(first["log_probabilities"], second["log_probabilities"], atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probabilities_are_those_of_both_models(
    family: str, folders: dict[str, dict[str, Path]], found: Callable[[str], dict[str, Any]]
) -> None:
    for prompt, text in zip(prompts(), found("one")[family]["mixed"]):
        ids = torch.tensor([[*prompt, *text["ids"]]])
        q, p = (
            reference(folders[family][which])(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            .gather(1, ids[0, len(prompt) :, None])[:, 0].detach().double()
            for which in ("model", "teacher")
        )  # fmt: skip
        expected = torch.stack([q, p, (0.4 * p.exp() + 0.6 * q.exp()).log()], 1)
        assert torch.allclose(torch.tensor(text["log_probabilities"]).double(), expected, atol=2e-5)
