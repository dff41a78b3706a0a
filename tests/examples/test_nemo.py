"""What a CPU can check of the entries for NeMo and Megatron-Bridge: that they compile, and the data they name."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest

from tests.conftest import REPOSITORY
from tests.training.conftest import documents, write_tokens

NEMO = REPOSITORY / "examples" / "nemo"


@pytest.fixture
def load(monkeypatch):
    """Imports a file of the folder, as it is when run from there."""
    monkeypatch.syspath_prepend(str(NEMO))

    def load(name: str) -> ModuleType:
        specification = importlib.util.spec_from_file_location(f"nemo_example_{name}", NEMO / f"{name}.py")
        module = importlib.util.module_from_spec(specification)
        monkeypatch.setitem(sys.modules, specification.name, module)
        specification.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def run(tmp_path):
    """Two training sets of unequal weight and two held-out sets."""
    write_tokens(
        tmp_path / "run/tokens",
        [documents(30, 1), documents(20, 2)],
        {"augmented": documents(5, 3), "raw": documents(5, 4)},
    )
    path = tmp_path / "run/tokens/dataset.json"
    path.write_text(path.read_text().replace('"weight": 1.0', '"weight": 3.0', 1))
    return tmp_path / "run"


def test_blends(load, run):
    data = load("run_data").read_run(run)
    tokens = run / "tokens"
    assert data.zipped("train") == ["3", f"{tokens}/train-0", "1", f"{tokens}/train-1"]
    valid = [f"{tokens}/valid-augmented", f"{tokens}/valid-raw"]
    assert data.nemo_paths() == {"train": data.zipped("train"), "validation": valid, "test": valid}
    assert data.blend_per_split() == [
        ([f"{tokens}/train-0", f"{tokens}/train-1"], [3.0, 1.0]),
        (valid, None),
        None,
    ]


def test_megatron_core_reads_the_blends(load, run):
    """As both frameworks hand them on: through ``get_blend_from_list`` or as they are, to Megatron-Core's builder."""
    pytest.importorskip("megatron.core", reason="needs Megatron-Core")
    from megatron.core.datasets.gpt_dataset import GPTDatasetConfig
    from megatron.core.datasets.indexed_dataset import IndexedDataset
    from megatron.core.datasets.utils import Split, get_blend_from_list, normalize

    data = load("run_data").read_run(run)
    paths = data.nemo_paths()
    from_nemo = [get_blend_from_list(paths[split]) for split in ("train", "validation", "test")]
    from_bridge = data.blend_per_split()
    assert from_nemo[0] == from_bridge[0]
    assert normalize(from_nemo[0][1]) == [0.75, 0.25]
    for blend in (from_nemo, from_bridge):
        config = GPTDatasetConfig(
            random_seed=1, sequence_length=32, blend_per_split=blend, split=None,
            tokenizer=SimpleNamespace(vocab_size=500), reset_position_ids=False, reset_attention_mask=False,
            eod_mask_loss=False,
        )  # fmt: skip
        assert config.blend_per_split[Split.train.value][0] == [prefix for _, prefix in data.train]
    documents_read = [len(IndexedDataset(prefix)) for _, prefix in data.train]
    assert documents_read == [30, 20]


def test_a_run_without_data(load, tmp_path, run):
    with pytest.raises(SystemExit, match=r"dataset\.json: no such file; run `megatron-ipt run RECIPE --until tokens`"):
        load("run_data").read_run(tmp_path)
    path = run / "tokens/dataset.json"
    path.write_text(path.read_text().partition('"valid"')[0] + '"valid": [], "test": []}')
    with pytest.raises(SystemExit, match=r"no validation data; set corpus\.valid_share"):
        load("run_data").read_run(run)


def test_sizes_for_nemo(load, tmp_path):
    """An exported Llama's sizes under NeMo's names; what they cannot say is refused."""
    from megatron_ipt.files import write_json
    from megatron_ipt.models.hugging_face_config import TokenIds, hugging_face_config
    from megatron_ipt.models.presets import resolve_shape

    def write(family: str, **keys: float) -> None:
        shape = resolve_shape({"preset": "instructlm_500m", "family": family, **keys})
        write_json(tmp_path / "config.json", hugging_face_config(shape, 32000, TokenIds(1, 2, None), "bfloat16"))

    nemo = load("nemo2_pretrain")
    write("llama")
    assert nemo.model_sizes(tmp_path) == {
        "num_layers": 16, "hidden_size": 1536, "ffn_hidden_size": 4320, "num_attention_heads": 24,
        "num_query_groups": 4, "kv_channels": 64, "init_method_std": 0.02, "layernorm_epsilon": 1e-5,
        "rotary_base": 10000.0, "share_embeddings_and_output_weights": False,
    }  # fmt: skip
    write("mistral")
    with pytest.raises(SystemExit, match=r"is a mistral model; set training\.model\.family to llama"):
        nemo.model_sizes(tmp_path)
    write("llama", rope_scaling_factor=8.0)
    with pytest.raises(SystemExit, match="uses rotary scaling"):
        nemo.model_sizes(tmp_path)


@pytest.mark.parametrize("name", ["nemo2_pretrain", "megatron_bridge_pretrain"])
def test_entries_say_what_they_are_without_the_framework(name):
    """``--help`` works anywhere; the framework is imported where it is used, and nowhere else."""
    done = subprocess.run([sys.executable, NEMO / f"{name}.py", "--help"], capture_output=True, text=True, check=True)
    assert "NOT RUN" in done.stdout and "--from-weights" in done.stdout
    tree = ast.parse((NEMO / f"{name}.py").read_text())
    top = [node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert not any(module.split(".")[0] in ("nemo", "megatron", "torch") for module in top)
