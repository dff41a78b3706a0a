from __future__ import annotations

from pathlib import Path

import pytest

from megatron_ipt.errors import InputError
from megatron_ipt.models.presets import resolve_shape

checkpoint = pytest.importorskip("megatron_ipt.training.checkpoints.checkpoint")


def write_checkpoint(root: Path, iteration: int) -> Path:
    folder: Path = checkpoint.iteration_folder(root, iteration)
    folder.mkdir(parents=True)
    (folder / "__0_0.distcp").write_bytes(b"12345")
    shape = resolve_shape({"family": "mistral", "preset": "tiny"})
    checkpoint.ModelFile(shape, 500, 512, "float32", 32, iteration, 8, 256, {"__0_0.distcp": 5}).write(folder)
    (root / "latest_checkpointed_iteration.txt").write_text(str(iteration))
    return folder


def test_model_file_comes_back(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, 7)
    assert checkpoint.latest_checkpoint(tmp_path) == folder == tmp_path / "iter_0000007"
    read = checkpoint.ModelFile.read(folder)
    assert (read.shape.hidden_size, read.padded_vocab_size, read.iteration) == (64, 512, 7)


def test_nothing_saved_yet(tmp_path: Path) -> None:
    assert checkpoint.latest_checkpoint(tmp_path) is None


def test_tracker_that_names_a_missing_iteration(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 7)
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("9")
    with pytest.raises(InputError, match=r"names iteration 9, but .*iter_0000009 does not exist.*: iter_0000007"):
        checkpoint.latest_checkpoint(tmp_path)


def test_tracker_that_is_no_number(tmp_path: Path) -> None:
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("newest")
    with pytest.raises(InputError, match="expected the number of an iteration or 'release', found 'newest'"):
        checkpoint.latest_checkpoint(tmp_path)


def test_tracker_that_names_converted_weights(tmp_path: Path) -> None:
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("release\n")
    with pytest.raises(InputError, match=r"names release, but .*release does not exist"):
        checkpoint.latest_checkpoint(tmp_path)
    (tmp_path / "release").mkdir()
    assert checkpoint.latest_checkpoint(tmp_path) == tmp_path / "release"


def test_missing_shard_is_named(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, 7)
    (folder / "__0_0.distcp").unlink()
    with pytest.raises(InputError, match=r"__0_0\.distcp: missing from the checkpoint"):
        checkpoint.ModelFile.read(folder)


def test_truncated_shard_is_named(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, 7)
    (folder / "__0_0.distcp").write_bytes(b"123")
    with pytest.raises(InputError, match=r"__0_0\.distcp: damaged: 3 bytes, but 5 were written"):
        checkpoint.ModelFile.read(folder)


def test_weights_to_start_from_are_a_checkpoint_or_the_folder_above(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "trained", 7)
    (folder / "metadata.json").write_text("{}")
    assert checkpoint.checkpoint_folder(folder) == checkpoint.checkpoint_folder(tmp_path / "trained") == folder
    converted = tmp_path / "converted/release"
    converted.mkdir(parents=True)
    (converted / "metadata.json").write_text("{}")
    assert checkpoint.checkpoint_folder(tmp_path / "converted") == converted
    with pytest.raises(InputError, match="no checkpoint found; expected an iter_"):
        checkpoint.checkpoint_folder(tmp_path / "nowhere")


def test_older_descriptions_without_checksums_are_read(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, 7)
    assert checkpoint.ModelFile.read(folder).checksums == {}
    assert checkpoint.checkpoints_in(tmp_path) == [folder]
