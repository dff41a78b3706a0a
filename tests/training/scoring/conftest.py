from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_ipt.inference.scoring import ScoreRequest

VOCABULARY = 50
POSITIONS = 64


def make_requests(number: int = 40) -> list[ScoreRequest]:
    """Texts of all lengths from one id to one more than the model has positions, some with masks."""
    generator = np.random.default_rng(7)
    lengths = [1, 2, POSITIONS + 1, 3, *generator.integers(2, POSITIONS + 2, number - 4).tolist()]
    requests = []
    for index, length in enumerate(lengths):
        ids = generator.integers(0, VOCABULARY, length).tolist()
        masks = {0: None, 1: (generator.random(length) < 0.4).tolist(), 2: [False] * length}
        requests.append(ScoreRequest(ids, masks[2] if index == 7 else masks[index % 2]))
    return requests


def transformers_scores(folder: Path, requests: list[ScoreRequest]) -> list[tuple[float, int]]:
    """(sum, tokens) of each request, one text at a time, softmax in fp64."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found = []
    for request in requests:
        ids = torch.tensor([list(request.ids)])
        with torch.no_grad():
            logits = model(ids).logits[0].double()
        counted = [
            position
            for position in range(1, len(request.ids))
            if request.mask is None or request.mask[position]
        ]  # fmt: skip
        terms = [logits[position - 1].log_softmax(-1)[ids[0, position]].item() for position in counted]
        found.append((sum(terms), len(terms)))
    return found


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, Path]]:
    """Makes a small model of a family: its Hugging Face folder and its checkpoint."""
    from megatron_ipt.convert.commands import import_model
    from tests.convert.models import save

    made: dict[Any, tuple[Path, Path]] = {}

    def make(family: str, **changes: Any) -> tuple[Path, Path]:
        name = (family, *sorted(changes.items()))
        if name not in made:
            folder = tmp_path_factory.mktemp(family)
            save(folder / "hf", family, **changes)
            import_model(folder / "hf", folder / "checkpoints")
            made[name] = folder / "hf", folder / "checkpoints"
        return made[name]

    return make
