"""The plan of the code, kept true: who imports whom, and which library is used where."""

from __future__ import annotations

import ast
import re
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import LONGEST

ROOT = Path(__file__).parent.parent

#: From the ground up. A package imports packages of its own layer or below.
LAYERS: tuple[tuple[str, ...], ...] = (
    (
        "errors", "permissions", "settings", "records", "geometry", "host", "tracing",
        "installation", "cancellation", "fairness",
    ),
    ("crypto", "formats", "measure"),
    ("detect", "seal", "store"),
    ("people",),
    ("operations",),
    ("service",),
)  # fmt: skip
#: Packages that others import through one module only: the names that the user fixed.
FRONT_DOORS = {"vault": "crypto", "metrics": "measure", "detection": "detect"}
#: What people and systems call; it imports the root of the engine and nothing deeper.
CALLERS = (
    "Home.py",
    "api",
    "cli.py",
    "commands",
    "dimse",
    "serve.py",
    "launch.py",
    "pages",
    "ui",
    "demo",
)
#: The only places where an outside library may be imported.
PLACES: dict[str, tuple[str, ...]] = {
    "streamlit": ("Home.py", "pages/", "ui/"),
    "streamlit_authenticator": ("ui/",),
    "plotly": ("ui/",),
    "fastapi": ("api/",),
    "fastapi_offline": ("api/",),
    "duckdb": ("engine/store/embedded.py",),
    "psycopg": ("engine/store/postgresql.py",),
    "psycopg_pool": ("engine/store/postgresql.py",),
    "botocore": ("engine/store/object_store.py", "engine/store/time_limit.py"),
    "urllib3": ("engine/store/object_store.py",),
    "pydicom": ("engine/formats/", "demo/pictures.py", "dimse/"),
    "pynetdicom": ("dimse/",),
    "dicomanonymizer": ("engine/formats/",),
    "jpeglib": ("engine/formats/",),
    "cryptography": (
        "engine/crypto/vault.py", "engine/crypto/keyring.py", "engine/crypto/key_exchange.py",
        "engine/crypto/root_keys.py", "engine/crypto/self_tests.py",
        "engine/crypto/tls_certificate.py", "engine/crypto/envelopes.py",
    ),
    "Crypto": ("engine/crypto/recovery_shares.py",),
    "jwt": ("engine/people/tokens.py",),
    "smtplib": ("engine/store/outbox.py",),
    "fpdf": ("engine/operations/report_page.py",),
    "bcrypt": ("engine/people/accounts.py",),
    "distributed": ("engine/operations/worker_pool.py",),
    "dask": ("engine/operations/worker_pool.py",),
    "prometheus_client": ("engine/operations/prometheus.py",),
    "webauthn": ("engine/people/passkeys.py",),
    "pyotp": ("engine/people/second_factor.py",),
    "segno": ("ui/", "model/codes.py"),
    "openvino": (
        "engine/detect/networks.py", "engine/detect/finder_graph.py", "engine/detect/yolo.py",
        "model/",
    ),
    "torch": ("engine/detect/networks.py", "engine/detect/yolo.py", "model/"),
    "ultralytics": ("engine/detect/networks.py", "engine/detect/yolo.py", "model/"),
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


def package(name: str) -> str:
    """Which package a module of the engine belongs to; a front door belongs to its package."""
    top = name.split(".")[1]
    return FRONT_DOORS.get(top, top)


def modules() -> dict[str, Path]:
    """Every module of the engine, by its absolute name."""
    found = {}
    for path in sorted((ROOT / "engine").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def graph() -> dict[str, set[str]]:
    """Which module of the engine imports which others."""
    known = modules()
    return {name: imports(path) & set(known) - {name, "engine"} for name, path in known.items()}


def layer_of(name: str) -> int:
    for number, names in enumerate(LAYERS):
        if package(name) in names:
            return number
    raise AssertionError(f"{name} has no layer: give its package one in LAYERS")


def test_packages_import_only_from_their_own_layer_or_below() -> None:
    for name, imported in graph().items():
        for other in imported:
            if name != "engine":
                assert layer_of(other) <= layer_of(name), f"{name} imports {other} from above"


def test_nothing_imports_in_a_circle() -> None:
    whole = graph()
    TopologicalSorter(whole).prepare()
    packages: dict[str, set[str]] = {}
    for name, imported in whole.items():
        if name != "engine":
            others = {package(other) for other in imported} - {package(name)}
            packages.setdefault(package(name), set()).update(others)
    TopologicalSorter(packages).prepare()


def test_a_package_with_a_front_door_is_entered_there() -> None:
    for name, imported in graph().items():
        for other in imported:
            inside = other.split(".")[1]
            if inside in FRONT_DOORS.values() and package(name) != inside:
                raise AssertionError(f"{name} imports {other} past the front door")


def test_the_top_level_of_the_engine_stays_small() -> None:
    top = {name.split(".")[1] for name in modules() if name != "engine"}
    assert top == {n for names in LAYERS for n in names} | set(FRONT_DOORS)


def test_the_plan_names_every_module() -> None:
    plan = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    words = set(re.findall(r"[a-z_0-9]+", plan))
    missing = [n for n in modules() if n.split(".")[-1] not in words]
    missing += [n for n in CALLERS if n not in plan]
    assert not missing, f"ARCHITECTURE.md does not name {missing}"


def test_the_engine_knows_no_caller_and_no_training_code() -> None:
    for path in (ROOT / "engine").rglob("*.py"):
        for name in imports(path):
            assert name.split(".")[0] not in {
                "ui", "api", "pages", "cli", "commands", "demo", "model", "tests",
            }  # fmt: skip


def test_callers_import_only_the_engine_root() -> None:
    for path in sources():
        if path.relative_to(ROOT).parts[0] in CALLERS:
            inner = set(modules()) - {"engine", "engine.errors"}
            deeper = [n for n in imports(path) if n in inner]
            assert not deeper, f"{path.relative_to(ROOT)}: {deeper}"


@pytest.mark.parametrize("library", PLACES)
def test_every_outside_library_has_its_place(library: str) -> None:
    for path in sources():
        if any(n.split(".")[0] == library for n in imports(path)):
            place = str(path.relative_to(ROOT))
            assert place.startswith(PLACES[library]), f"{place} imports {library}"


def test_the_clock_and_randomness_come_from_the_host() -> None:
    for path in (ROOT / "engine").rglob("*.py"):
        if path.name != "host.py":
            for name in ("datetime.now(", "utcnow(", "time.time(", "token_bytes(", "os.urandom("):
                assert name not in path.read_text(), f"{path.name} uses {name}"


#: Most parameters of a function besides ``self``, ``cls`` and ``caller``.
MOST_PARAMETERS = 6


def functions(tree: ast.AST, prefix: str) -> list[tuple[str, ast.arguments]]:
    """Every function and method below a node, by its dotted name."""
    found: list[tuple[str, ast.arguments]] = []
    for node in ast.iter_child_nodes(tree):
        named = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        name = f"{prefix}.{node.name}" if named else prefix
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.append((name, node.args))
        found += functions(node, name)
    return found


def parameters(arguments: ast.arguments) -> list[str]:
    """Names that a caller has to think of."""
    given = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    given += [a for a in (arguments.vararg, arguments.kwarg) if a is not None]
    return [a.arg for a in given if a.arg not in ("self", "cls", "caller")]


def test_parameters_are_counted_whatever_their_kind() -> None:
    tree = ast.parse("class A:\n async def f(self, caller, a, /, b, *c, d, **e):\n  def g(x): ...")
    counted = {name: parameters(given) for name, given in functions(tree, "m")}
    assert counted == {"m.A.f": ["a", "b", "d", "c", "e"], "m.A.f.g": ["x"]}


def test_no_function_of_the_engine_takes_more_than_six_parameters() -> None:
    found = {
        name: parameters(arguments)
        for module, path in modules().items()
        for name, arguments in functions(ast.parse(path.read_text()), module)
    }
    over = {name: given for name, given in found.items() if len(given) > MOST_PARAMETERS}
    assert not over


@pytest.mark.parametrize("package_name", ["operations", "service"])
def test_only_the_store_and_people_speak_sql(package_name: str) -> None:
    for path in (ROOT / "engine" / package_name).rglob("*.py"):
        found = re.findall(r'"(?:SELECT|INSERT|UPDATE|DELETE) ', path.read_text(encoding="utf-8"))
        assert not found, f"{path.name} asks the database itself"


def test_the_longest_test_files_are_there() -> None:
    assert [name for name in LONGEST if not list((ROOT / "tests").rglob(f"{name}.py"))] == []


def test_the_journeys_of_the_plan_name_what_there_is() -> None:
    plan = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    steps = re.findall(r"^\| [^|]+ \| ((?:`[\w.]+`(?:, )?)+) \| `([\w/]+\.py)` \|$", plan, re.M)
    assert len(steps) > 30
    for names, file in steps:
        defined = {name for name, _ in functions(ast.parse((ROOT / file).read_text()), "")}
        for name in re.findall(r"`([\w.]+)`", names):
            assert f".{name}" in defined, f"{file} has no {name}"
