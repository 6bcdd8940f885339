"""Fixtures: a folder for a command, and no setting of this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if name.startswith("MEDSEC_"):
            monkeypatch.delenv(name)
    (tmp_path / "in").mkdir()
    return tmp_path
