from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

from megatron_ipt.convert.formats.safetensors_reader import read_header  # noqa: E402
from megatron_ipt.convert.formats.safetensors_writer import TensorPlan, file_names, header, pack, parse_size  # noqa: E402
from megatron_ipt.convert.formats.stored_tensor import SourceFile, as_bytes  # noqa: E402
from megatron_ipt.errors import RecipeError  # noqa: E402

TENSORS = {
    "a": torch.randn(3, 5),
    "b.é": torch.randn(4).bfloat16(),
    "c": torch.randn(2, 2, 2).half(),
    "empty": torch.zeros(0, 3),
}


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "x.safetensors"
    plans = [TensorPlan(name, tuple(tensor.shape), tensor.dtype) for name, tensor in TENSORS.items()]
    path.write_bytes(header(plans) + b"".join(bytes(as_bytes(tensor)) for tensor in TENSORS.values()))
    return path


def test_the_library_reads_what_is_written(written):
    loaded = safetensors.load_file(written)
    assert loaded.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)


def test_places_are_where_the_library_put_the_bytes(tmp_path):
    safetensors.save_file(TENSORS, tmp_path / "x.safetensors")
    for name, stored in read_header(SourceFile(tmp_path / "x.safetensors")).items():
        found = torch.empty(stored.shape, dtype=stored.dtype)
        stored.read_elements(0, found)
        assert torch.equal(found, TENSORS[name]), name
        if stored.shape[0] > 1:
            rows = torch.empty((stored.shape[0] - 1, *stored.shape[1:]), dtype=stored.dtype)
            stored.read_rows(1, rows)
            assert torch.equal(rows, TENSORS[name][1:])


def test_files_are_filled_in_order():
    sizes = [TensorPlan(str(size), (size,), torch.uint8) for size in (4, 5, 20, 1, 9)]
    assert [[plan.name for plan in file] for file in pack(sizes, 10)] == [["4", "5"], ["20"], ["1", "9"]]


def test_names_of_files():
    assert file_names(1) == ["model.safetensors"]
    assert file_names(2) == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


@pytest.mark.parametrize(("text", "size"), [("500MB", 5 * 10**8), ("5 gb", 5 * 10**9), ("1.5GiB", 3 * 2**29), ("7", 7)])
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "5XB", "-1GB"])
def test_what_is_no_size(text):
    with pytest.raises(RecipeError, match="is not a size"):
        parse_size(text)
