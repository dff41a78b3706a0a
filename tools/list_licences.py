"""Writes ``docs/licences.md``: what every requirement of ``setup.py`` is for, and the licence its package states.

Usage: python tools/list_licences.py [--check]

The licence is read from the metadata of the installed package; of what is not installed here (engines that want a
machine of their own) from the table below, which repeats what their projects state. ``--check`` writes nothing and
ends with status 1 when the page is not what would be written.
"""

from __future__ import annotations

import argparse
import re
import runpy
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = REPOSITORY / "docs" / "licences.md"

NOT_INSTALLED = {
    "tensorrt-llm": "Apache-2.0",
    "vllm": "Apache-2.0",
    "nemo-toolkit": "Apache-2.0",
    "megatron-bridge": "Apache-2.0",
    "transformer-engine": "Apache-2.0",
}
_INTRODUCTION = """# Licences of what this package asks for

Megatron-IPT is licensed under Apache-2.0. Nothing of the packages below is copied into it or shipped with it; pip
installs them. `make licences` writes this page from the metadata of the installed packages. What those ask for in turn
is theirs to say: `pip-licenses` lists a whole environment.

| package | wanted by | licence |
|---|---|---|
"""


def setup_arguments() -> dict:
    """What ``setup.py`` passes to ``setuptools.setup``."""
    import setuptools

    given: dict = {}
    setup = setuptools.setup
    setuptools.setup = lambda **options: given.update(options)
    try:
        runpy.run_path(str(REPOSITORY / "setup.py"))
    finally:
        setuptools.setup = setup
    return given


def requirements() -> dict[str, list[str]]:
    """Every direct requirement of ``setup.py`` and the extras that want it; ``base`` is the plain install."""
    given = setup_arguments()
    wanted: dict[str, list[str]] = {}
    for extra, lines in {"base": given["install_requires"], **given["extras_require"]}.items():
        for line in lines:
            name = re.match(r"[\w.-]+", line)[0].lower()
            # Extras that only join others say nothing new.
            if extra != "all" and not (extra in ("docs", "test") and name in wanted):
                wanted.setdefault(name, []).append(extra)
    return wanted


def licence_of(package: str) -> str:
    """What the package's metadata states: an SPDX expression, else its classifier, else its free text."""
    try:
        found = distribution(package)
    except PackageNotFoundError:
        return NOT_INSTALLED[package]
    return _stated(found)


def _stated(found: Distribution) -> str:
    expression = found.metadata.get("License-Expression")
    if expression:
        return expression
    classifiers = [text for text in found.metadata.get_all("Classifier") or [] if text.startswith("License ::")]
    if classifiers:
        return "; ".join(text.rpartition(":: ")[2] for text in classifiers)
    text = (found.metadata.get("License") or "").strip().splitlines()
    return text[0][:60] if text else "not stated"


def page() -> str:
    rows = [
        f"| {name} | {', '.join(extras)} | {licence_of(name)} |\n" for name, extras in sorted(requirements().items())
    ]
    return _INTRODUCTION + "".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="Write nothing; status 1 when the page is out of date.")
    if parser.parse_args().check:
        return int(not PAGE.exists() or PAGE.read_text("utf-8") != page())
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE}: {len(requirements())} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
