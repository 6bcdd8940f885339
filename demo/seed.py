"""Fill an empty data folder with the demo, through the same Engine methods as the pages."""

from __future__ import annotations

from collections.abc import Callable

from demo import NAMES, PASSWORD
from demo.pictures import PATIENTS, DemoFile, files
from engine import ACCOUNT_ROLES, Engine, Role, Suggestion, errors


def fill(engine: Engine, tell: Callable[[str], None]) -> None:
    """Accounts, patients and a dozen sealed images; does nothing where there are accounts.

    Args:
        tell: Told one line of progress at a time.
    """
    if not engine.setup_needed():
        return
    tell("accounts, one for each role")
    administrator = str(Role.ADMINISTRATOR)
    engine.create_first_administrator(
        engine.setup_code(), administrator, NAMES[Role.ADMINISTRATOR], PASSWORD
    )
    token = engine.sign_in(administrator, PASSWORD, "demo").token
    for role in ACCOUNT_ROLES:
        if role is not Role.ADMINISTRATOR:
            engine.create_account(token, str(role), NAMES[role], role, PASSWORD)
    engine.sign_out(token)

    token = engine.sign_in(str(Role.TECHNICIAN), PASSWORD, "demo").token
    ids = {
        p.id: engine.create_patient(token, p.id, p.name, p.age, p.note).patient_id for p in PATIENTS
    }
    for number, file in enumerate(files(), 1):
        tell(f"image {number} of 12: {file.name}: {_take_in(engine, token, ids, file)}")
    engine.sign_out(token)


def _take_in(engine: Engine, token: str, ids: dict[str, str], file: DemoFile) -> str:
    """Upload and, where nothing asks for a person, seal; the rest waits in the review queue."""
    draft = engine.upload(token, ids[file.patient.id], file.name, file.data, file.profile)
    view = engine.open_draft(token, draft.image_id)
    certain = view.suggested(Suggestion.SEAL)
    try:
        record = engine.seal(token, draft.image_id, certain, view.left, adopt=True)
    except errors.ReviewNeeded as err:
        return f"waits for a person ({', '.join(err.facts['reasons'])})"
    return f"{record.region_count} regions sealed"
