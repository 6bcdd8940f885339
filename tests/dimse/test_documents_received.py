"""Documents of a study over the network: dcmtk sends them, and they come back as they came."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import WHY, Ward
from tests.dimse.test_receiver import port as port
from tests.dimse.test_receiver import ward as ward
from tests.formats.documents import BASIC_TEXT, KEY_OBJECTS, PDF, PRESENTATION, document

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def test_documents_that_are_sent_are_stored_and_come_back(
    ward: Ward, port: int, tmp_path: Path
) -> None:
    program = shutil.which("storescu")
    if program is None:
        pytest.skip("dcmtk is not installed")
    for uid in (BASIC_TEXT, KEY_OBJECTS, PDF, PRESENTATION):
        data = document(uid, PatientName="Doe^Jane")
        (tmp_path / f"{uid}.dcm").write_bytes(data)
    files = [str(path) for path in sorted(tmp_path.glob("*.dcm"))]
    sent = subprocess.run(
        [program, "-v", "-xe", "-aet", "CT1", "-aec", "MEDSEC", "127.0.0.1", str(port), *files],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    said = sent.stdout + sent.stderr
    assert (sent.returncode, said.count("Success")) == (0, len(files)), said
    engine, team = ward.engine, ward.team
    waiting = engine.drafts.waiting(team.technician)
    assert sorted(draft.modality for draft in waiting) == ["DOC", "KO", "PR", "SR"]
    for draft in waiting:
        view = engine.drafts.open(team.technician, draft.image_id)
        engine.drafts.seal(team.technician, draft.image_id, view.detections, {}, "a document")
        restored = engine.images.restore(team.doctor, draft.image_id, WHY)
        file = engine.images.restored_file(team.doctor, restored.handle)
        assert b"nodule" in file.data
