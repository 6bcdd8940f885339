"""What a crash of the machine may not take: every new name is synced in its folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.host import Host, write_durably


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files and folders in the order in which they were synced."""
    paths: list[Path] = []
    real = os.fsync

    def noted(descriptor: int) -> None:
        paths.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    return paths


def folders(synced: list[Path]) -> list[Path]:
    return [path for path in synced if path.is_dir()]


def test_the_first_file_syncs_every_folder_above_it(tmp_path: Path, synced: list[Path]) -> None:
    root = tmp_path / "blobs"
    address = Host(root).write_blob(b"first")
    # The data folder names the root, the root names the folder of the file, and that the file.
    assert folders(synced) == [tmp_path, root, root / address[:2]]
    assert {p.stat().st_mode & 0o777 for p in (root, root / address[:2])} == {0o700}


def test_a_new_folder_of_files_is_synced_in_the_root(tmp_path: Path, synced: list[Path]) -> None:
    root = tmp_path / "blobs"
    host = Host(root)
    first = host.write_blob(b"first")
    synced.clear()
    second = host.write_blob(b"second")
    assert second[:2] != first[:2]
    assert folders(synced) == [root, root / second[:2]]


def test_a_file_is_synced_before_its_name_and_its_name_before_the_end(
    tmp_path: Path, synced: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    replace = os.replace

    def renamed(source: Path, target: Path) -> None:
        steps.append(f"renamed after {len(synced)} syncs")
        replace(source, target)

    monkeypatch.setattr(os, "replace", renamed)
    write_durably(tmp_path / "file", b"content")
    assert steps == ["renamed after 1 syncs"]
    assert len(synced) == 2
    assert synced[0].name.endswith(".part")
    assert synced[1] == tmp_path


def test_the_same_bytes_again_need_no_sync(tmp_path: Path, synced: list[Path]) -> None:
    host = Host(tmp_path / "blobs")
    host.write_blob(b"first")
    synced.clear()
    host.write_blob(b"first")
    assert synced == []
