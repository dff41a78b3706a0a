"""Draws docs/images/architecture.svg from the imports between packages.

One row per package in the order of imports, with its size and purpose, and a dot for every package that it imports. All
dots are left of the diagonal, because packages import only packages before them. ``--check`` exits with status 1 if the
picture is outdated.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from html import escape
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "megatron_ipt"
PICTURE = REPOSITORY / "docs/images/architecture.svg"
ROW, CELL, TOP, LEFT, TEXT = 26, 22, 120, 16, 610


FLOW = (
    "stages", "corpus", "models", "inference", "synthesis", "augment", "tokens", "tuning", "training", "convert",
    "evaluation", "report", "comparison", "cluster", "commands",
)  # fmt: skip
"""Order of the rows, as far as imports allow it."""


def place(room: str) -> tuple[int, str]:
    """Sorts rooms by :data:`FLOW`, new ones to the end."""
    return (FLOW.index(room) if room in FLOW else len(FLOW), room)


def rooms() -> dict[str, list[Path]]:
    """Modules by package; top-level modules are grouped under an empty name."""
    found: dict[str, list[Path]] = {"": []}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).parts
        found.setdefault(parts[0] if len(parts) > 1 else "", []).append(path)
    return found


def imported(path: Path) -> set[str]:
    """Packages that ``path`` imports, including deferred imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("megatron_ipt"):
            parts = node.module.split(".")
            names |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
    return {name for name in names if (PACKAGE / name).is_dir()}


def in_order(graph: dict[str, set[str]]) -> list[str]:
    """Packages in topological order of imports, ties in alphabetical order.

    Raises:
        SystemExit: there is an import cycle.
    """
    left, order = dict(graph), list[str]()
    while left:
        ready = sorted((name for name, needs in left.items() if needs <= set(order)), key=place)
        if not ready:
            raise SystemExit(f"import cycle among {', '.join(sorted(left))}")
        order.append(ready[0])
        del left[ready[0]]
    return order


def draw() -> str:
    """The picture as SVG."""
    found = rooms()
    graph = {name: set().union(*map(imported, paths)) - {name} for name, paths in found.items() if name}
    order = in_order(graph)
    width = LEFT + TEXT + CELL * len(order) + 50
    height = TOP + ROW * (len(order) + 1) + 16
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="13">',
        "<title>Imports between the packages of megatron_ipt</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for column, name in enumerate(order):
        x = LEFT + TEXT + CELL * column + CELL / 2
        lines.append(f'<text transform="translate({x + 4:g},{TOP - 12}) rotate(-60)" fill="#444">{escape(name)}</text>')
    for row, name in enumerate([*order, ""]):
        y = TOP + ROW * row
        if row % 2 == 0:
            lines.append(f'<rect x="0" y="{y}" width="{width}" height="{ROW}" fill="#f3f5f8"/>')
        size = sum(len(path.read_text("utf-8").splitlines()) for path in found[name])
        label = name or "shared modules and front doors"
        lines.append(f'<text x="{LEFT}" y="{y + 17}" font-weight="600" fill="#111">{escape(label)}</text>')
        lines.append(
            f'<text x="{LEFT + 330 if not name else LEFT + 165}" y="{y + 17}" text-anchor="end" fill="#666">'
            f"{round(size, -2):,} lines</text>"
        )
        if name:
            lines.append(f'<text x="{LEFT + 182}" y="{y + 17}" fill="#333">{escape(purpose(name))}</text>')
            for column, other in enumerate(order):
                x = LEFT + TEXT + CELL * column + CELL / 2
                if other == name:
                    lines.append(f'<rect x="{x - 5:g}" y="{y + 8}" width="10" height="10" fill="#c9d2de"/>')
                elif other in graph[name]:
                    lines.append(f'<circle cx="{x:g}" cy="{y + 13}" r="5" fill="#2f6fb0"/>')
    return "\n".join([*lines, "</svg>", ""])


def _structure(picture: str) -> str:
    """A picture without sizes, which change with every commit."""
    return re.sub(r"[\d,]+ lines", "", picture)


def purpose(room: str) -> str:
    """First sentence of the package's docstring."""
    text = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text("utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split()).split(". ")[0].rstrip(".")


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="Change nothing; exit with status 1 if outdated.")
    check = parser.parse_args().check
    picture = draw()
    if check:
        return int(not PICTURE.exists() or _structure(PICTURE.read_text("utf-8")) != _structure(picture))
    PICTURE.write_text(picture, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
