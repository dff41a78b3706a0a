"""How code of the user's own is found, and what is said where it is not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_ipt.errors import RecipeError
from megatron_ipt.extensions import VARIABLE, import_code, load_extensions, load_object, own_file
from tests.conftest import REPOSITORY
from tests.examples.conftest import extensions  # noqa: F401

pytestmark = pytest.mark.usefixtures("extensions")


@pytest.fixture
def code(tmp_path: Path) -> Path:
    path = tmp_path / "my_code.py"
    path.write_text("ROWS = []\nclass Mine: pass\ndef other(): return 7\n")
    return path


def test_a_file_and_a_module_are_named_alike(code, monkeypatch):
    assert load_object(f"{code}:other", "some.key")() == 7
    assert load_object("os.path:join", "some.key") is os.path.join
    monkeypatch.chdir(code.parent)
    assert load_object("./my_code.py:Mine", "some.key").__name__ == "Mine"


def test_a_file_is_executed_once(code, monkeypatch):
    first = import_code(str(code), "some.key")
    first.ROWS.append("kept")
    monkeypatch.chdir(code.parent)
    assert import_code("my_code.py", "some.key").ROWS == ["kept"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no/such_file.py:Mine", r"some\.key: no/such_file\.py: no such file \(relative to "),
        ("no_such_module:Mine", r"No module named 'no_such_module'; to name a file, give its path, e\.g\. \./my_"),
        ("Mine", r"some\.key:  cannot be imported"),
        ("..mine:Mine", r"some\.key: \.\.mine: relative module names are not supported"),
        (f"{'a' * 300}.py:Mine", r"cannot be read: File name too long"),
    ],
)
def test_what_cannot_be_found(name, message):
    with pytest.raises(RecipeError, match=message):
        load_object(name, "some.key")


def test_the_file_of_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert own_file("engines/mine.py:Mine") == Path("engines/mine.py")
    assert own_file(f"{tmp_path}/mine.py:Mine") == Path("mine.py")
    assert own_file("/elsewhere/mine.py:Mine") == Path("/elsewhere/mine.py")
    assert own_file("my_package.engines:Mine") is None


def test_a_name_that_the_file_does_not_have_lists_those_it_has(code):
    with pytest.raises(RecipeError, match=r"some\.key: .*my_code\.py has no 'Mime'; it defines Mine, other"):
        load_object(f"{code}:Mime", "some.key")


def test_a_file_with_a_fault(tmp_path):
    path = tmp_path / "faulty.py"
    path.write_text("def f(:\n")
    with pytest.raises(RecipeError, match=r"faulty\.py cannot be imported: .*line 1"):
        import_code(str(path), "extensions")
    # Mended, it is read again.
    path.write_text("VALUE = 1\n")
    assert import_code(str(path), "extensions").VALUE == 1


def test_started_processes_are_told(code, monkeypatch):
    monkeypatch.chdir(code.parent)
    load_extensions(["my_code.py", "json"], "extensions")
    load_extensions(["my_code.py"], "extensions")
    assert os.environ[VARIABLE].split(os.pathsep) == [str(code), "json"]


def list_families(**environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "megatron_ipt", "keys", "training.model.family"]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **environment}, timeout=60
    )


def test_environment_and_installed_packages(tmp_path):
    """An installed package is a folder on the path with metadata: what pip leaves behind."""
    assert "smollm3" not in list_families().stdout
    file = REPOSITORY / "examples" / "extensions" / "smollm3.py"
    assert "smollm3" in list_families(**{VARIABLE: str(file)}).stdout
    (tmp_path / "my_family.py").write_text(file.read_text())
    metadata = tmp_path / "my_family-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-family\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[megatron_ipt.extensions]\nmy_family = my_family\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    assert "smollm3" in list_families(PYTHONPATH=path).stdout


def test_an_environment_that_names_nothing_is_an_error_and_not_a_traceback():
    done = list_families(**{VARIABLE: "nowhere.py"})
    assert done.returncode == 2
    assert done.stderr.startswith("error: MEGATRON_IPT_EXTENSIONS: nowhere.py: no such file")
