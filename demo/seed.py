"""Fill a data folder with the demo, through the same Engine methods as the pages."""

from __future__ import annotations

from collections.abc import Callable

from demo import NAMES, PASSWORD
from demo.pictures import PATIENTS, DemoFile, files
from engine import ACCOUNT_ROLES, Engine, ImageState, Role, Suggestion, errors


def fill(engine: Engine, tell: Callable[[str], None]) -> None:
    """Create accounts, patients and two dozen sealed images; continues an interrupted run.

    Does nothing if the demo is complete, or if the accounts are not those of the demo.

    Args:
        tell: Called with each line of progress.
    """
    finished = engine.settings.data / "demo-filled"
    if finished.exists():
        return
    administrator = str(Role.ADMINISTRATOR)
    if engine.people.setup_needed():
        tell("one account for each role")
        engine.people.create_first_administrator(
            engine.people.setup_code(), administrator, NAMES[Role.ADMINISTRATOR], PASSWORD
        )
    try:
        token = engine.sessions.sign_in(administrator, PASSWORD, "demo").token
    except errors.AccessError:
        return  # the password was changed: not a demo any more
    there = {account.username for account in engine.people.accounts(token)}
    for role in ACCOUNT_ROLES:
        if str(role) not in there:
            engine.people.create(token, str(role), NAMES[role], role, PASSWORD)
    engine.sessions.sign_out(token)

    token = engine.sessions.sign_in(str(Role.TECHNICIAN), PASSWORD, "demo").token
    known = {p.id: p.patient_id for p in engine.patients.search(token, limit=1000)}
    ids = {
        p.id: known.get(p.id)
        or engine.patients.create(token, p.id, p.name, p.age, p.note).patient_id
        for p in PATIENTS
    }
    every = list(files())
    for number, file in enumerate(every, 1):
        tell(f"image {number} of {len(every)}: {file.name}: {_take_in(engine, token, ids, file)}")
    engine.sessions.sign_out(token)
    finished.touch(mode=0o600)


def _take_in(engine: Engine, token: str, ids: dict[str, str], file: DemoFile) -> str:
    """Upload and, if no review is needed, seal; the rest waits in the review queue."""
    try:
        draft = engine.drafts.upload(
            token, ids[file.patient.id], file.name, file.data, file.profile
        )
    except errors.DuplicateImage as err:  # an earlier start was interrupted after this one
        waiting = {d.image_id: d for d in engine.drafts.waiting(token, limit=1000)}
        found = waiting.get(err.facts["image_id"])
        if found is None or found.state is ImageState.REVIEW:
            return "already there"
        draft = found
    view = engine.drafts.open(token, draft.image_id)
    certain = view.suggested(Suggestion.SEAL)
    try:
        record = engine.drafts.seal(token, draft.image_id, certain, view.left, adopt=True)
    except errors.ReviewNeeded as err:
        return f"waits for review ({', '.join(err.facts['reasons'])})"
    count = record.region_count
    return f"{count} region{'' if count == 1 else 's'} sealed"
