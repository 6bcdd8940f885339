"""The floor plan, kept true: who imports whom, and which outside library lives where."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

#: From the ground up; a module imports only from floors below its own.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("permissions", "settings", "host"),
    ("records",),
    ("aggregates", "box_metrics", "randomness_tests", "similarity"),
    ("metrics", "vault", "mask", "patches", "rootkeys"),
    ("keys", "shares", "exchange", "networks", "png", "huffman"),
    ("jpeg", "raster", "text", "faces", "codes", "dicom", "database"),
    ("detection", "images", "hierarchy", "audit", "accounts"),
    ("catalog", "patients", "viewings"),
    ("pipeline",),
    ("package",),
    ("service",),
)
DOORS = ("Home.py", "api.py", "cli.py", "serve.py", "pages", "ui", "demo")
#: The only rooms where an outside library may be imported.
ROOMS: dict[str, tuple[str, ...]] = {
    "streamlit": ("Home.py", "pages/", "ui/"),
    "streamlit_authenticator": ("ui/",),
    "plotly": ("ui/",),
    "fastapi": ("api.py",),
    "duckdb": ("engine/database.py",),
    "pydicom": ("engine/dicom", "demo/pictures.py"),
    "dicognito": ("engine/dicom",),
    "cryptography": ("engine/vault.py", "engine/keys.py", "engine/exchange.py", "engine/rootkeys.py"),
    "Crypto": ("engine/shares.py",),
    "bcrypt": ("engine/accounts.py",),
    "openvino": ("engine/networks.py",),
    "torch": ("engine/networks.py", "model/"),
    "ultralytics": ("engine/networks.py", "model/"),
    "secrets": ("engine/host.py", "api.py"),
}  # fmt: skip


def sources() -> list[Path]:
    skip = {".venv", "tests", "benchmarks", "runs"}
    return [p for p in sorted(ROOT.rglob("*.py")) if not skip & set(p.relative_to(ROOT).parts)]


def imports(path: Path) -> set[str]:
    """Absolute module names, with ``from a import b`` also as ``a.b``."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{a.name}" for a in node.names}
    return found


def floor_of(name: str) -> int:
    for number, names in enumerate(FLOORS):
        if name in names:
            return number
    raise AssertionError(f"engine/{name} has no floor: give it one in FLOORS")


def room(path: Path) -> str:
    return path.relative_to(ROOT / "engine").parts[0].removesuffix(".py")


@pytest.mark.parametrize(
    "path", [p for p in sources() if p.is_relative_to(ROOT / "engine")], ids=str
)
def test_engine_modules_import_only_from_below(path: Path) -> None:
    if path == ROOT / "engine" / "__init__.py":
        return
    floor = floor_of(room(path))
    known = {name for names in FLOORS for name in names}
    for name in imports(path):
        assert not name.startswith(("ui", "api", "pages", "model.", "tests")), name
        parts = name.split(".")
        if parts[0] == "engine" and len(parts) > 1 and parts[1] in known and parts[1] != room(path):
            assert floor_of(parts[1]) < floor, f"{path.name} imports {parts[1]} from above"


def test_doors_import_only_the_engine_root() -> None:
    for path in sources():
        if path.relative_to(ROOT).parts[0] in DOORS:
            deeper = [
                n for n in imports(path)
                if n.startswith("engine.") and n.split(".")[1] in {m for f in FLOORS for m in f} - {"errors"}
            ]  # fmt: skip
            assert not deeper, f"{path.relative_to(ROOT)}: {deeper}"


@pytest.mark.parametrize("library", ROOMS)
def test_every_outside_library_has_its_room(library: str) -> None:
    for path in sources():
        if any(n.split(".")[0] == library for n in imports(path)):
            place = str(path.relative_to(ROOT))
            assert place.startswith(ROOMS[library]), f"{place} imports {library}"


def test_the_clock_and_randomness_come_from_the_host() -> None:
    for path in (ROOT / "engine").rglob("*.py"):
        if path.name != "host.py":
            for name in ("datetime.now(", "utcnow(", "time.time(", "token_bytes(", "os.urandom("):
                assert name not in path.read_text(), f"{path.name} uses {name}"
