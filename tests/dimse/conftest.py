"""Settings of a server that takes part in the network."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import Settings
from tests.dimse.peers import free_port


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        data=tmp_path / "data",
        key_file=tmp_path / "keys" / "root.key",
        bcrypt_cost=4,
        dicom_port=free_port(),
        dicom_memory_mb=64,
    )
