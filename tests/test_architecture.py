"""The floor plan, kept true: who imports whom, and which outside library lives where."""

from __future__ import annotations

import ast
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

#: From the ground up. A room imports rooms of its own floor or below, and nothing in a circle.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "permissions", "settings", "host", "records", "tracing", "numbers",
     "installation"),
    ("vault", "rootkeys", "shares", "keys", "exchange", "certificate", "turns", "database",
     "bearers", "aggregates", "box_metrics", "disclosure", "randomness_tests",
     "similarity", "metrics", "pooling", "formats", "networks", "lines", "text",
     "faces", "codes", "yolo", "film", "crew", "leash", "identifying", "guest", "drift", "shadow"),
    ("images", "detection", "policies", "hierarchy", "audit", "accounts", "lockout", "sessions",
     "secondfactor", "registrations", "identities", "catalog", "patients", "profiles", "sealedrows",
     "guests", "viewings", "tokens", "access", "outbox", "merging", "training", "reads", "backup",
     "roster"),
    ("pipeline", "package"),
    ("service",),
)  # fmt: skip
DOORS = ("Home.py", "api", "cli.py", "serve.py", "pages", "ui", "demo")
#: The only rooms where an outside library may be imported.
ROOMS: dict[str, tuple[str, ...]] = {
    "streamlit": ("Home.py", "pages/", "ui/"),
    "streamlit_authenticator": ("ui/",),
    "plotly": ("ui/",),
    "fastapi": ("api/",),
    "limits": ("api/",),
    "fastapi_offline": ("api/",),
    "duckdb": ("engine/database.py",),
    "pydicom": ("engine/formats/", "demo/pictures.py"),
    "dicomanonymizer": ("engine/formats/",),
    "jpeglib": ("engine/formats/",),
    "cryptography": (
        "engine/vault.py", "engine/keys.py", "engine/exchange.py", "engine/rootkeys.py",
        "engine/certificate.py",
    ),
    "Crypto": ("engine/shares.py",),
    "jwt": ("engine/tokens.py",),
    "smtplib": ("engine/outbox.py",),
    "bcrypt": ("engine/accounts.py",),
    "distributed": ("engine/crew.py",),
    "dask": ("engine/crew.py",),
    "prometheus_client": ("engine/numbers.py",),
    "pyotp": ("engine/secondfactor.py",),
    "segno": ("ui/", "model/codes.py"),
    "openvino": ("engine/networks.py", "engine/yolo.py", "model/"),
    "torch": ("engine/networks.py", "engine/yolo.py", "model/"),
    "ultralytics": ("engine/networks.py", "engine/yolo.py", "model/"),
    "secrets": ("engine/host.py", "api/"),
}  # fmt: skip


def sources() -> list[Path]:
    skip = {".venv", "tests", "benchmarks", "runs"}
    return [p for p in sorted(ROOT.rglob("*.py")) if not skip & set(p.relative_to(ROOT).parts)]


@cache
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


def graph() -> dict[str, set[str]]:
    """Which room of the engine imports which others."""
    known = {name for names in FLOORS for name in names}
    rooms: dict[str, set[str]] = {}
    for path in (ROOT / "engine").rglob("*.py"):
        if path != ROOT / "engine" / "__init__.py":
            named = {n.split(".")[1] for n in imports(path) if n.startswith("engine.")}
            rooms.setdefault(room(path), set()).update((named & known) - {room(path)})
    return rooms


def test_rooms_import_only_from_their_own_floor_or_below() -> None:
    for name, imported in graph().items():
        for other in imported:
            assert floor_of(other) <= floor_of(name), f"{name} imports {other} from above"


def test_no_rooms_import_each_other_in_a_circle() -> None:
    TopologicalSorter(graph()).prepare()


def test_the_engine_knows_no_door_and_no_training_code() -> None:
    for path in (ROOT / "engine").rglob("*.py"):
        for name in imports(path):
            assert name.split(".")[0] not in {"ui", "api", "pages", "cli", "demo", "model", "tests"}


def test_doors_import_only_the_engine_root() -> None:
    for path in sources():
        if path.relative_to(ROOT).parts[0] in DOORS:
            rooms = {name for names in FLOORS for name in names} - {"errors"}
            deeper = [
                n for n in imports(path) if n.startswith("engine.") and n.split(".")[1] in rooms
            ]
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
