"""The comparison of pinned versions with a database that the operator brings."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests import known_vulnerabilities
from tests.known_vulnerabilities import affected, hits, main, native_libraries, pinned

ROOT = Path(__file__).parents[1]


def spans(*events: dict[str, str]) -> dict[str, Any]:
    return {"ranges": [{"type": "ECOSYSTEM", "events": list(events)}]}


ALWAYS, MENDED = {"introduced": "0"}, {"fixed": "1.2"}


@pytest.mark.parametrize(
    ("version", "entry", "fixed"),
    [
        ("1.1", spans(ALWAYS, MENDED), "1.2"),
        ("1.2", spans(ALWAYS, MENDED), None),
        ("1.10", spans(ALWAYS, MENDED), None),  # not by the alphabet
        ("1.2rc1", spans(ALWAYS, MENDED), "1.2"),
        ("1.1+cpu", spans(ALWAYS, MENDED), "1.2"),
        ("1.1", spans(MENDED, ALWAYS), "1.2"),  # in any order
        ("0.9", spans({"introduced": "1.0"}, MENDED), None),
        ("2.0", spans(ALWAYS, MENDED, {"introduced": "2.0"}), "none yet"),
        ("1.5", spans(ALWAYS, MENDED, {"introduced": "2.0"}), None),
        ("2.3", spans(ALWAYS, {"last_affected": "2.3"}), "none yet"),
        ("2.4", spans(ALWAYS, {"last_affected": "2.3"}), None),
        ("3.0", {"versions": ["3.0"]}, "none yet"),
        ("3.1", {"versions": ["3.0"]}, None),
        ("1.1", {"ranges": [{"type": "GIT", "events": [ALWAYS]}]}, None),
    ],
)
def test_a_version_is_affected_as_the_schema_of_the_database_says(
    version: str, entry: dict[str, Any], fixed: str | None
) -> None:
    assert affected(entry, version) == fixed


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Two that hit, and others that are withdrawn, mended, or of something else."""
    duckdb = pinned()["duckdb"]
    package = {"ecosystem": "PyPI", "name": "DuckDB"}  # names are compared without their case
    records = {
        "A-1": {"affected": [{"package": package, **spans(ALWAYS)}], "summary": "reads too much"},
        "A-2": {"affected": [{"package": package, "versions": [duckdb]}]},
        "A-3": {"affected": [{"package": package, **spans(ALWAYS)}], "withdrawn": "2026-01-01"},
        "A-4": {"affected": [{"package": package, **spans(ALWAYS, {"fixed": duckdb})}]},
        "A-5": {"affected": [{"package": {**package, "ecosystem": "npm"}, **spans(ALWAYS)}]},
        "A-6": {"affected": [{"package": {**package, "name": "another"}, **spans(ALWAYS)}]},
    }
    path = tmp_path / "all.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, record in records.items():
            archive.writestr(zipfile.ZipInfo(f"{name}.json"), json.dumps({"id": name, **record}))
    return path


def test_what_is_pinned_is_compared_with_the_database(
    database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [hit.id for hit in hits(database, pinned())] == ["A-1", "A-2"]
    assert main([str(database)]) == 1
    said = capsys.readouterr().out
    assert "A-1 (mended in none yet) reads too much" in said
    assert "2 hits" in said
    assert "jpeglib: libjpeg-turbo" in said
    assert "two weeks" in said  # a ZipInfo is of 1980


def test_without_hits_the_target_succeeds_and_without_a_database_it_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "all.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("A.json", json.dumps({"id": "A"}))
    assert main([str(path)]) == 0
    assert main([]) == 2
    assert main([str(tmp_path / "nothing.zip")]) == 2
    assert known_vulnerabilities.USAGE in capsys.readouterr().err


def test_every_requirement_is_among_the_pins() -> None:
    pins = pinned()
    for name in ("streamlit", "cryptography", "pillow", "jpeglib", "numpy", "torch"):
        assert name in pins
    assert len(pins) > 100


def test_the_document_names_the_native_libraries_that_are_installed() -> None:
    page = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
    for package, versions in native_libraries().items():
        assert f"| `{package}` | {versions} |" in page
