"""The node check with stand-ins for the driver's command and for other nodes."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from megatron_ipt.cluster.watch import preflight as module
from megatron_ipt.cluster.watch.preflight import Place, all_nodes, check_node, problems_of_storage
from megatron_ipt.errors import StageError
from megatron_ipt.files import write_json
from megatron_ipt.recipe import load_recipe
from tests.cluster.slurm_cluster import free_ports
from tests.conftest import REPOSITORY


@pytest.fixture
def recipe(tmp_path):
    loaded = load_recipe(REPOSITORY / "examples/quickstart.yaml", (f"output_dir={tmp_path / 'run'}",))
    write_json(tmp_path / "run/tokens/dataset.json", {"vocab_size": 1024})
    return loaded


def driver(tmp_path, monkeypatch, output, status=0):
    program = tmp_path / "bin/nvidia-smi"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{output}\nEND\nexit {status}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")


def test_a_node_with_a_lost_gpu_is_refused(recipe, tmp_path, monkeypatch):
    driver(tmp_path, monkeypatch, "\n".join(["NVIDIA H100 80GB HBM3, 81559, 4, 570.1, 0"] * 7))
    problems, facts = check_node(recipe, 8)
    assert problems == ["7 GPUs, 8 expected"]
    assert (facts["gpus"], facts["driver"]) == ("7 x NVIDIA H100 80GB HBM3", "570.1")


def test_a_driver_that_does_not_work_is_quoted(recipe, tmp_path, monkeypatch):
    driver(tmp_path, monkeypatch, "NVIDIA-SMI has failed: driver mismatch", 9)
    assert check_node(recipe, 8)[0] == ["0 GPUs, 8 expected (NVIDIA-SMI has failed: driver mismatch)"]
    monkeypatch.setenv("PATH", "/nonexistent")
    assert check_node(recipe, 1)[0] == ["0 GPUs, 1 expected (nvidia-smi is missing)"]


def test_a_node_needs_room_for_checkpoints_and_sees_the_dataset(recipe, monkeypatch):
    assert problems_of_storage(recipe) == []
    monkeypatch.setenv("MEGATRON_IPT_FREE_GB", "1e9")
    assert "1,000,000,000 GB needed for two checkpoints" in problems_of_storage(recipe)[0]
    (Path(recipe.output_dir) / "tokens/dataset.json").unlink()
    assert "dataset.json is not visible from this node" in problems_of_storage(recipe)[0]


def exchange(nodes, present, monkeypatch):
    """What each of the ``present`` nodes of ``nodes`` hears; {index: (problems, facts)}."""
    pytest.importorskip("torch")
    monkeypatch.setattr(module, "_SECONDS_FOR_NODES", 1.0)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_ports(1)[0]))
    heard = {}

    def one(index, problems, facts):
        place = Place(f"node{index}", index, nodes, 1, tuple(f"node{number}" for number in range(nodes)))
        try:
            heard[index] = all_nodes(place, problems, facts)
        except StageError as error:
            heard[index] = str(error)

    threads = [threading.Thread(target=one, args=(index, *found)) for index, found in present.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return heard


def test_every_node_hears_what_any_node_found(monkeypatch):
    facts = {"gpus": "8 x H100", "driver": "570.1"}
    heard = exchange(2, {0: ([], facts), 1: (["7 GPUs, 8 expected"], facts | {"driver": "550.2"})}, monkeypatch)
    expected = ["node1: 7 GPUs, 8 expected", "driver differ between nodes: node0 570.1, node1 550.2"]
    assert heard == {0: expected, 1: expected}


def test_a_node_that_does_not_come_is_named(monkeypatch):
    assert exchange(2, {0: ([], {})}, monkeypatch) == {0: "preflight: node1 did not answer within 1 s"}
