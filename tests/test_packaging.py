"""What is installed for what, and what a wheel holds, compared with what the code imports."""

from __future__ import annotations

import ast
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import engine
import serve
from engine import Settings
from engine.detect import faces, text, yolo
from tests import builders

ROOT = Path(__file__).parent.parent
PARTS = ("run", "gpu", "train", "dev")
#: What the project was asked to be built with.
NAMED = (
    "streamlit", "streamlit-authenticator", "ultralytics", "torch", "opencv-python", "numpy",
    "scipy", "pillow", "imagehash", "scikit-image", "plotly", "pandas", "pycryptodome",
    "cryptography", "duckdb", "pytest",
)  # fmt: skip
#: Needed to run, though no file of ours imports them: who does.
IMPORTED_BY_OTHERS = {
    "authlib": "streamlit, for st.login",
    "httpx": "authlib",
    "psycopg-binary": "psycopg",
    "pyarrow": "pandas and duckdb, for Parquet and Arrow",
    "python-multipart": "fastapi and streamlit, for uploads",
    "uvicorn": "streamlit",
    "pylibjpeg": "pydicom",
    "pylibjpeg-libjpeg": "pylibjpeg",
    "pylibjpeg-openjpeg": "pylibjpeg",
    "pylibjpeg-rle": "pylibjpeg",
}
#: Imported inside a function that only a GPU reaches.
ON_A_GPU = {"torch"}


def lines(name: str) -> list[str]:
    return [line for line in (ROOT / name).read_text().splitlines() if line.strip()]


def pins(name: str) -> list[tuple[str, str]]:
    """Canonical names and versions of a requirements file."""
    found = []
    for line in lines(name):
        wanted = line.split("#")[0].strip()
        if wanted and not wanted.startswith("-"):
            requirement = Requirement(wanted)
            found.append((canonicalize_name(requirement.name), str(requirement.specifier)))
    return found


def wanted(*parts: str) -> set[str]:
    return {name for part in parts for name, _ in pins(f"requirements-{part}.txt")}


@cache
def product() -> tuple[Path, ...]:
    """Python files that a running server or command may import."""
    folders = [p for p in ROOT.iterdir() if (p / "__init__.py").exists() or p.name == "pages"]
    apart = {"tests", "benchmarks", "model"}
    found = [p for folder in folders if folder.name not in apart for p in folder.rglob("*.py")]
    return (*found, *(p for p in ROOT.glob("*.py") if p.name != "setup.py"))


def imported() -> dict[str, set[str]]:
    """Packages outside of the standard library and of the project, with the files that do."""
    ours = {p.stem for p in ROOT.iterdir()}
    found: dict[str, set[str]] = {}
    for path in product():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [a.name for a in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            else:
                continue
            for name in {n.split(".")[0] for n in names} - ours - set(sys.stdlib_module_names):
                found.setdefault(name, set()).add(str(path.relative_to(ROOT)))
    return found


# --- requirements -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMED)
def test_requirements_name_every_package_that_was_asked_for_and_its_use(name: str) -> None:
    (line,) = [line for line in lines("requirements.txt") if line.split()[0] == name]
    assert re.search(r"# \w{3}", line), f"{name}: say in a comment what uses it"
    assert name in wanted(*PARTS), f"{name} has no version"


def test_requirements_include_every_part() -> None:
    included = {line.split()[1] for line in lines("requirements.txt") if line[:2] in ("-r", "-c")}
    assert included == {p.name for p in ROOT.glob("requirements-*.txt")} | {"constraints.txt"}


def test_every_version_is_exact_and_stands_once() -> None:
    held: dict[str, str] = {}
    for name in (*(f"requirements-{part}.txt" for part in PARTS), "constraints.txt"):
        for package, version in pins(name):
            assert version.startswith("=="), f"{package} in {name}"
            assert package not in held, f"{package} stands in {name} and in {held[package]}"
            held[package] = name


def needed(*parts: str) -> set[str]:
    """The packages of some parts and what these bring, by what they say of themselves."""
    todo, seen = [(name, frozenset[str]()) for name in wanted(*parts)], set()
    while todo:
        item = todo.pop()
        if item in seen:
            continue
        seen.add(item)
        for text_ in distribution(item[0]).requires or []:
            asked = Requirement(text_)
            extras = item[1] or {""}
            if not asked.marker or any(asked.marker.evaluate({"extra": e}) for e in extras):
                todo.append((canonicalize_name(asked.name), frozenset(asked.extras)))
    return {name for name, _ in seen}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="torch brings other packages elsewhere")
def test_constraints_pin_what_the_packages_bring_and_nothing_else() -> None:
    assert {name for name, _ in pins("constraints.txt")} == needed(*PARTS) - wanted(*PARTS)


def test_running_needs_no_pytorch_no_test_tools_and_one_opencv() -> None:
    brought = needed("run")
    assert not {n for n in brought if n.startswith(("torch", "nvidia", "cuda", "triton", "pytest"))}
    assert not {"ultralytics", "hypothesis", "mypy", "ruff", "playwright"} & brought
    assert {n for n in brought if n.startswith("opencv")} == {"opencv-python-headless"}


def test_what_the_product_imports_is_what_running_requires() -> None:
    known = packages_distributions()
    required, used = wanted("run"), set(IMPORTED_BY_OTHERS)
    for name, files in imported().items():
        if name in ON_A_GPU:
            assert name in wanted("gpu")
            assert all(file.startswith("engine/") for file in files)
            continue
        providers = {canonicalize_name(d) for d in known.get(name, [name])}
        assert providers & required, f"requirements-run.txt lacks {name}, used in {sorted(files)}"
        used |= providers & required
    assert used == required, f"nothing uses {sorted(required - used)}: drop it, or say who does"


def test_everything_but_a_gpu_works_without_what_running_does_not_install(tmp_path: Path) -> None:
    """The product in a process in which those packages cannot be imported."""
    picture = tmp_path / "picture.png"
    pixels, _ = builders.labelled()
    picture.write_bytes(builders.png(pixels))
    provided = packages_distributions()
    apart = needed(*PARTS) - needed("run")
    absent = [n for n, ds in provided.items() if all(canonicalize_name(d) in apart for d in ds)]
    assert {"torch", "ultralytics", "onnxruntime", "rapidocr", "skimage", "pytest"} <= set(absent)
    (tmp_path / "run.py").write_text(
        "import sys\nfrom importlib.machinery import PathFinder\n"
        f"absent = set({absent!r})\n"
        "class Lacking(PathFinder):\n"
        "    @classmethod\n"
        "    def find_spec(cls, name, path=None, target=None):\n"
        "        if name.split('.')[0] not in absent:\n"
        "            return PathFinder.find_spec(name, path, target)\n"
        "sys.meta_path[:] = [Lacking if f is PathFinder else f for f in sys.meta_path]\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "import api, cli, serve, demo.seed, engine\n"
        "from engine.detect.detector import Detector\n"
        "from engine.detect.looking import NETWORKS\n"
        "for name in NETWORKS: NETWORKS[name](engine.Settings(threads=1))\n"
        "try: Detector.open(engine.Settings(device='cuda'))\n"
        "except engine.errors.SettingsError as err: assert 'make run GPU=1' in err.message\n"
        "else: sys.exit('a GPU without PyTorch was not refused')\n"
        f"sys.exit(cli.main(['detect', {str(picture)!r}, '--json', {str(tmp_path / 'out')!r}]))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-W", "error", tmp_path / "run.py"],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "text" in (tmp_path / "out").read_text()


@pytest.mark.parametrize(
    ("arguments", "gpu", "installs"),
    [
        (["run"], False, {"run"}),
        (["run"], True, {"run", "gpu"}),
        (["run", "GPU=1"], False, {"run", "gpu"}),
        (["run", "GPU=0"], True, {"run"}),
        (["train"], False, {"run", "gpu", "train"}),
    ],
)
def test_make_installs_what_a_target_needs(
    arguments: list[str], gpu: bool, installs: set[str], tmp_path: Path
) -> None:
    for path in (*ROOT.glob("requirements*.txt"), ROOT / "constraints.txt", ROOT / "Makefile"):
        shutil.copy(path, tmp_path)
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\n" + ("echo 'GPU 0: a GPU'\n" if gpu else "exit 9\n"))
    tool.chmod(0o755)
    environment = {
        k: v for k, v in os.environ.items() if k not in ("GPU", "MAKEFLAGS", "MAKELEVEL")
    }
    environment["PATH"] = f"{tool.parent}:{environment['PATH']}"
    said = subprocess.run(
        ["make", "--dry-run", *arguments],
        capture_output=True, text=True, cwd=tmp_path, env=environment, check=True,
    ).stdout  # fmt: skip
    assert set(re.findall(r"--requirement requirements-(\w+)\.txt", said)) == installs


# --- networks of others -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "sha256"),
    [
        (text.FINDER, text.FINDER_SHA256),
        (text.READER, text.READER_SHA256),
        (faces.WEIGHTS, faces.SHA256),
        (yolo.NUDENET, yolo.NUDENET_SHA256),
    ],
)
def test_a_network_of_others_is_the_recorded_one_and_its_licence_is_named(
    path: Path, sha256: str
) -> None:
    assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    assert f"{sha256}  {path.name}" in (path.parent / "SHA256SUMS").read_text().splitlines()
    rows = (path.parent / "README.md").read_text().splitlines()
    (row,) = [r for r in rows if r.startswith("|") and path.name in r]
    assert re.search(r"Apache-2\.0|MIT|AGPL-3\.0|as above", row)


def test_every_file_among_the_networks_of_others_is_accounted_for() -> None:
    folder = text.FINDER.parent
    recorded = {line.split()[1] for line in (folder / "SHA256SUMS").read_text().splitlines()}
    assert {p.name for p in folder.glob("*.onnx")} == recorded
    for licence in folder.glob("LICENSE-*"):
        assert licence.name in (folder / "README.md").read_text()


# --- version ----------------------------------------------------------------------------------


def test_the_version_stands_in_one_place() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert engine.version() == version
    assert not [p.name for p in (*product(), ROOT / "setup.py") if version in p.read_text()]


def test_the_command_line_says_its_version() -> None:
    said = subprocess.run(
        [sys.executable, "cli.py", "--version"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    ).stdout
    assert said == f"MedSec {engine.version()}\n"


# --- keys and git -----------------------------------------------------------------------------


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
@pytest.mark.parametrize(
    "path",
    [
        f"{Path(serve.DEMO['MEDSEC_KEY_FILE']).parent}/any",
        f"{serve.DEMO['MEDSEC_DATA']}/any",
        f"{Settings().data}/any",
        "root.key",  # python cli.py seal --key root.key
        "server.pem",
    ],
)
def test_git_ignores_keys_and_data_that_a_server_in_the_checkout_writes(path: str) -> None:
    assert not Path(path).is_absolute()
    ignored = subprocess.run(["git", "check-ignore", "--quiet", "--no-index", path], cwd=ROOT)
    assert ignored.returncode == 0, f"{path} could be committed: add it to .gitignore"


# --- the wheel --------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_installed_wheel_seals_restores_and_serves(tmp_path: Path) -> None:
    """With the packages of this environment; no file of the checkout is in reach."""
    from tests.serving import serve as served

    source, site, work = tmp_path / "source", tmp_path / "site", tmp_path / "work"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True, text=True, cwd=ROOT, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, source],
        check=True,
    )
    (wheel,) = tmp_path.glob("medsec-*.whl")
    assert wheel.name.startswith(f"medsec-{engine.version()}-")
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True)
    shutil.rmtree(source)
    assert {p.name for p in site.iterdir() if p.suffix != ".dist-info"} <= {"medsec", "bin"}
    inside = {p.name for p in (site / "medsec").iterdir()}
    assert not inside & {"tests", "benchmarks", "setup.py", "docs"}

    work.mkdir()
    original = builders.png(builders.labelled()[0])
    (work / "a.png").write_bytes(original)
    environment = os.environ | {"PYTHONPATH": str(site)}

    def medsec(*arguments: str) -> str:
        program = [sys.executable, site / "bin" / "medsec", *arguments]
        ran = subprocess.run(program, capture_output=True, text=True, cwd=work, env=environment)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    assert medsec("--version") == f"MedSec {engine.version()}\n"
    keys = ("--data", "data", "--key", "root.key")
    medsec("seal", "a.png", "--out", "sealed", *keys)
    [masked] = (work / "sealed").glob("*.png")
    assert masked.read_bytes() != original
    medsec("restore", "sealed", "--out", "back", *keys)
    assert (work / "back" / "a.png").read_bytes() == original

    start = work / "start.py"
    start.write_text(
        "import sys\nfrom medsec.launch import main\nsys.argv[1:] = ['serve']\nmain()\n"
    )
    with served(work / "server", program=str(start), PYTHONPATH=str(site)) as server:
        import httpx

        assert httpx.get(f"{server.url}/api/ready/", timeout=60).json() == {"status": "ready"}
        assert httpx.get(server.url).status_code == 200
