"""Training that follows a policy: the loss against a plain sum over rows, and the same on other layouts."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from megatron_ipt.config import load
from megatron_ipt.errors import InputError, RecipeError, StageError
from megatron_ipt.training.config import TrainingConfig
from megatron_ipt.training.objectives.terms import load_terms
from megatron_ipt.training.policy_file import WEIGHTS, read_policy, write_policy
from tests.training.test_masked import LENGTH, write_rows
from tests.training.test_runs import Jobs, losses

torch = pytest.importorskip("torch")
pytest.importorskip("megatron.core", reason="training needs Megatron-Core")
objective = pytest.importorskip("megatron_ipt.training.objectives.objective")

ROWS, STEPS = 8, 4


def policy(seed: int = 0, steps: int = STEPS, rows: int = ROWS) -> np.ndarray:
    """Random weights, of which some are zero."""
    draws = np.random.default_rng(seed).exponential(size=(steps, rows))
    draws[draws < 0.4] = 0
    return draws / draws.sum(1, keepdims=True)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    write_policy(tmp_path / "policy", policy(), {"model": "test"})
    return tmp_path / "policy"


def term(folder: Path, steps: int | None = STEPS, rows: int = ROWS):
    settings = json.dumps({"weighted_rows": {"options": {"policy": str(folder)}}})
    config = load(TrainingConfig, None, ["model.preset=tiny", f"objectives={settings}"])
    (found,) = load_terms(config.objectives)
    found.objective.setup(SimpleNamespace(config=SimpleNamespace(steps=steps), rows=rows))
    return found.objective


def batch(rows, seed=1, width=5):
    """Rows by number; how many of their tokens are predicted differs."""
    mask = (torch.rand(len(rows), width, generator=torch.Generator().manual_seed(seed)) < 0.6).float()
    mask[:, 0] = 1
    mask[[number for number, row in enumerate(rows) if row < 0]] = 0
    tokens = mask.sum(1, keepdim=True).long().expand(-1, width)
    return {"loss_mask": mask, "row": torch.tensor(rows)[:, None].expand(-1, width), "row_tokens": tokens}


def test_the_loss_is_the_weighted_sum_of_mean_losses(written):
    found = term(written)
    micro_batches = [batch([3, 0, 7], 1), batch([5, 1, -1], 2), batch([2, 4, 6], 3)]
    for step in (1, 4):
        weights = policy()[step - 1]
        ready = found.before_step(objective.Step(step, True), [dict(part) for part in micro_batches])
        total = count = expected = 0.0
        for part in ready:
            token_losses = torch.rand(3, 5, generator=torch.Generator().manual_seed(step))
            total += float(found.loss(objective.ModelOutputs(token_losses), part)[0])
            count += float(found.count(part))
            for row, mask, values in zip(part["row"][:, 0].tolist(), part["loss_mask"], token_losses):
                if row >= 0:
                    expected += weights[row] * float((values * mask).sum() / mask.sum())
        assert total == pytest.approx(expected, rel=1e-5) and count == pytest.approx(1, rel=1e-5)


def test_parts_of_sequences_add_up(written):
    """Under context parallelism a rank has some positions of every row."""
    found = term(written)
    whole = batch([3, 0, 7, 2])
    (ready,) = found.before_step(objective.Step(2, True), [dict(whole)])
    parts = [
        found.before_step(objective.Step(2, True), [{name: value[:, places] for name, value in whole.items()}])[0]
        for places in ([0, 3], [1, 2, 4])
    ]
    token_losses = torch.rand(4, 5)
    sums = [
        float(found.loss(objective.ModelOutputs(token_losses[:, places]), part)[0])
        for places, part in zip(([0, 3], [1, 2, 4]), parts)
    ]
    assert sum(sums) == pytest.approx(float(found.loss(objective.ModelOutputs(token_losses), ready)[0]), rel=1e-5)
    assert sum(float(found.count(part)) for part in parts) == pytest.approx(float(found.count(ready)), rel=1e-6)


def test_a_run_continues_with_the_policy_that_it_began_with(written):
    state = term(written).state_dict()
    term(written).load_state_dict(dict(state))
    write_policy(written, policy(seed=1), {})
    with pytest.raises(StageError, match="is another policy than the one that this training began with"):
        term(written).load_state_dict(state)


def test_policies_of_another_training_are_refused(written, tmp_path):
    with pytest.raises(RecipeError, match=r"is a policy for 4 steps, but this training has 5; set training\.steps=4"):
        term(written, steps=5)
    with pytest.raises(RecipeError, match="has a length that is not given in steps"):
        term(written, steps=None)
    with pytest.raises(RecipeError, match="is a policy for 8 rows, but the training data have 9 rows"):
        term(written, rows=9)
    with pytest.raises(RecipeError, match=r"options\.policy is required"):
        load_terms(load(TrainingConfig, None, ["model.preset=tiny", "objectives.weighted_rows.weight=1"]).objectives)
    with pytest.raises(StageError, match="a policy needs training data with a mask"):
        term(written).before_step(objective.Step(1, True), [{"loss_mask": torch.ones(1, 2)}])
    with pytest.raises(InputError):
        term(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights * 2, r"step 1 add up to 2, .*\(4 steps do not\)"),
        (lambda weights: np.where(np.arange(8) == 0, -0.5, weights), "the lowest is -0.5"),
        (lambda weights: weights * np.nan, "step 1 add up to nan"),
        (lambda weights: weights[:, :7], r"has shape \(4, 7\), but policy.json says \(4, 8\)"),
    ],
)
def test_damaged_policies_are_refused(written, change, message):
    np.save(written / WEIGHTS, change(policy()))
    with pytest.raises(InputError, match=message):
        read_policy(written)


def test_what_is_no_array_is_refused(written):
    (written / WEIGHTS).write_bytes(b"not an array")
    with pytest.raises(InputError, match="not the weights of a policy"):
        read_policy(written)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    folder = tmp_path_factory.mktemp("rows")
    # Two sources, whose rows are numbered one after the other.
    train = [write_rows(folder, "first", 5, 1), write_rows(folder, "second", 3, 2)]
    description = {"vocab_size": 512, "bos_id": 1, "eod_id": 2, "pad_id": None, "train": train, "valid": [], "test": []}
    (folder / "dataset.json").write_text(json.dumps(description))
    for name, weights in (("random", policy()), ("uniform", np.full((STEPS, ROWS), 1 / ROWS))):
        write_policy(root / name, weights, {})
    common = (
        "model.preset=tiny", "model.num_layers=2", f"data.seq_length={LENGTH}", f"steps={STEPS}",
        f"global_batch_size={ROWS}", "micro_batch_size=2", "logging.tensorboard=false",
        # In a batch of all rows, each source has its share.
        "data.blend={first: 5, second: 3}",
    )  # fmt: skip

    def follow(name: str) -> str:
        return "objectives=" + json.dumps({"weighted_rows": {"options": {"policy": str(root / name)}}})

    one, two = Jobs(root, folder), Jobs(root, folder)
    one.add("one", *common, follow("random"))
    one.add("uniform", *common, follow("uniform"))
    two.add("data", *common, follow("random"))
    two.add("tensor", *common, follow("random"), "parallel.tensor_model_parallel_size=2")
    two.add("pipeline", *common, follow("random"), "parallel.pipeline_model_parallel_size=2")
    two.add("context", *common, follow("random"), "parallel.context_parallel_size=2")
    one.run(1)
    two.run(2)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["data", "tensor", "pipeline", "context"])
def test_all_layouts_follow_the_same_policy(runs, layout):
    one, other = losses(runs / "one"), losses(runs / layout)
    assert len(one) == len(other) == STEPS
    assert max(abs(one[step] - other[step]) for step in one) < 1e-5
    uniform = losses(runs / "uniform")
    assert max(abs(one[step] - uniform[step]) for step in one) > 1e-3
