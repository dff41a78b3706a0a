"""Writes ``docs/licences.md``: all requirements in ``setup.py``, the extras that need them, and their licences.

Usage: python tools/list_licences.py [--check]

Licences are read from the metadata of installed packages; for packages that cannot be installed here (engines with
special requirements), from the table below. ``--check`` writes nothing and exits with status 1 if the page is outdated.
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
_INTRODUCTION = """# Licences of dependencies

Megatron-IPT is licensed under Apache-2.0. It neither contains nor ships code of the packages below; pip installs them.
`make licences` generates this page from the metadata of the installed packages. It lists direct dependencies only; use
`pip-licenses` to list a whole environment.

| package | required by | licence |
|---|---|---|
"""


def setup_arguments() -> dict:
    """Arguments that ``setup.py`` passes to ``setuptools.setup``."""
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
    """All direct requirements in ``setup.py`` and the extras that need them; ``base`` is the plain install."""
    given = setup_arguments()
    wanted: dict[str, list[str]] = {}
    for extra, lines in {"base": given["install_requires"], **given["extras_require"]}.items():
        for line in lines:
            name = re.match(r"[\w.-]+", line)[0].lower()
            # Skips extras that only combine others.
            if extra != "all" and not (extra in ("docs", "test") and name in wanted):
                wanted.setdefault(name, []).append(extra)
    return wanted


def licence_of(package: str) -> str:
    """Licence in the package's metadata: the SPDX expression, else the classifier, else the free text."""
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
    parser.add_argument("--check", action="store_true", help="Write nothing; exit with status 1 if it is outdated.")
    if parser.parse_args().check:
        return int(not PAGE.exists() or PAGE.read_text("utf-8") != page())
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE}: {len(requirements())} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
