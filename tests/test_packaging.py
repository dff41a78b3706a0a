"""What pip gets: the wheel and the source archive hold what they should, and the data stages need the base alone."""

from __future__ import annotations

import configparser
import importlib.metadata
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import megatron_ipt
from tests.conftest import REPOSITORY
from tests.test_house import HEAVY

NOT_OURS = (
    ".*", "runs", "build", "dist", "shared", "*.egg-info", "__pycache__", "*.pyc", "setup.cfg", "PKG-INFO"
)  # fmt: skip
"""Names that are not of the project: made here, by git or by pip."""
WITH_CHECKOUT = ("docs", "examples", "slurm", "tests", "tools", ".ci")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """The project alone, so that building leaves nothing in the checkout."""
    folder = tmp_path_factory.mktemp("packaging") / "source"
    shutil.copytree(REPOSITORY, folder, ignore=shutil.ignore_patterns(*NOT_OURS))
    shutil.copytree(REPOSITORY / ".ci", folder / ".ci")
    return folder


@pytest.fixture(scope="module")
def archive(source) -> Path:
    """The source archive, unpacked."""
    build = "import setuptools.build_meta as b; print(b.build_sdist('dist'))"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (packed,) = (source / "dist").glob("*.tar.gz")
    with tarfile.open(packed) as stream:
        stream.extractall(source.parent, filter="data")
    return source.parent / packed.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def wheel(archive) -> Path:
    """The wheel as pip builds it from the source archive, unpacked."""
    folder = archive.parent / "wheel"
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", folder]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, archive], check=True, capture_output=True)
    (packed,) = folder.glob("*.whl")
    with zipfile.ZipFile(packed) as stream:
        stream.extractall(folder / "unpacked")
    return folder / "unpacked"


def files_in(folder: Path, *inside: str) -> set[str]:
    roots = [folder / name for name in inside] or [folder]
    found = (path for root in roots for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(folder)) for path in found}


@pytest.mark.slow
def test_the_source_archive_is_a_checkout(source, archive):
    assert files_in(archive, "megatron_ipt", *WITH_CHECKOUT) == files_in(source, "megatron_ipt", *WITH_CHECKOUT)
    beside = {"README.md", "LICENSE", "CHANGELOG.md", "Makefile", "constraints.txt", "setup.py", "pyproject.toml"}
    assert beside <= {path.name for path in archive.iterdir()}


@pytest.mark.slow
def test_the_wheel_is_the_whole_package_and_nothing_else(source, wheel):
    assert files_in(wheel, "megatron_ipt") == files_in(source, "megatron_ipt")
    assert "megatron_ipt/py.typed" in files_in(wheel)
    assert {path.name.partition("-")[0] for path in wheel.iterdir()} == {"megatron_ipt"}


@pytest.mark.slow
def test_the_wheel_says_what_it_is(wheel):
    (folder,) = wheel.glob("*.dist-info")
    metadata = HeaderParser().parsestr((folder / "METADATA").read_text("utf-8"))
    assert metadata["Version"] == megatron_ipt.__version__
    assert metadata["License-Expression"] or metadata["License"] == "Apache-2.0"
    pythons = {text.rpartition(" ")[2] for text in metadata.get_all("Classifier") if ":: 3." in text}
    assert {"3.10", "3.11", "3.12"} == pythons
    assert all(python in SpecifierSet(metadata["Requires-Python"]) for python in pythons)
    assert set(metadata.get_all("Provides-Extra")) >= {
        "train", "synthesis", "tensorrt-llm", "vllm", "fp8", "nemo", "eval", "report", "test", "all"
    }  # fmt: skip
    scripts = configparser.ConfigParser()
    scripts.read(folder / "entry_points.txt")
    assert dict(scripts["console_scripts"]) == {"megatron-ipt": "megatron_ipt.cli:main"}


@pytest.mark.slow
def test_the_wheel_makes_tokens_without_what_the_extras_bring(archive, wheel, tmp_path):
    shutil.copytree(archive / "examples", tmp_path / "examples")
    # None in sys.modules is a module that cannot be imported.
    program = (
        f"import sys; sys.modules |= dict.fromkeys({HEAVY!r}); sys.path.insert(0, {str(wheel)!r})\n"
        "import megatron_ipt.cli as cli; assert cli.__file__.startswith(sys.path[0]); cli.main()"
    )

    def megatron_ipt(*arguments):
        command = [sys.executable, "-c", program, *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    done = megatron_ipt("run", "examples/quickstart.yaml", "--until", "tokens", "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["stage"]: row["status"] for row in json.loads(done.stdout)}
    assert [rows[stage] for stage in ("corpus", "synthesis", "augment", "tokens")] == ["complete"] * 4
    refused = megatron_ipt("train", "examples/quickstart.yaml")
    assert refused.returncode == 4
    assert "training: torch and megatron not installed; `pip install megatron-ipt[train]`" in refused.stderr


def list_licences():
    specification = importlib.util.spec_from_file_location("list_licences", REPOSITORY / "tools/list_licences.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_every_requirement_has_its_licence_on_the_page():
    given = list_licences().setup_arguments()
    lines = given["install_requires"] + [line for extra in given["extras_require"].values() for line in extra]
    required = {Requirement(line).name.lower() for line in lines}
    page = (REPOSITORY / "docs/licences.md").read_text("utf-8")
    rows = re.findall(r"^\| ([\w.-]+) \| ([^|]+) \| ([^|]+) \|$", page, re.MULTILINE)
    assert {name for name, _, _ in rows} - {"package"} == required
    assert all(licence.strip() not in ("", "not stated") for _, _, licence in rows)


def pins(python: str) -> dict[str, str]:
    """Names and versions of constraints.txt that hold on this Python."""
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    environment = {"python_version": python}
    return {
        requirement.name.lower().replace("_", "-"): str(requirement.specifier).removeprefix("==")
        for requirement in found
        if requirement.marker is None or requirement.marker.evaluate(environment)
    }


def test_every_requirement_is_pinned_within_its_range():
    given = list_licences().setup_arguments()
    extras = {name: lines for name, lines in given["extras_require"].items() if name in ("all", "test")}
    # What builds the package comes with Python's own tools.
    for line in given["install_requires"] + [line for lines in extras.values() for line in lines]:
        requirement = Requirement(line)
        if requirement.name in ("setuptools", "wheel"):
            continue
        for python in ("3.10", "3.11", "3.12"):
            version = pins(python)[requirement.name.lower()]
            assert version in requirement.specifier, f"{line}: constraints.txt pins {version} on Python {python}"


def test_what_is_pinned_on_python_3_10_runs_there():
    there = pins("3.10")
    for name, version in there.items():
        try:
            installed = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        wanted = SpecifierSet(installed.metadata.get("Requires-Python") or "")
        assert installed.version != version or "3.10.0" in wanted, f"{name}=={version} needs Python {wanted}"
