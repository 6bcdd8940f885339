"""Every engine method against every role: the table is complete, and the engine keeps it."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest

from engine import Engine, Permission, Role, errors
from engine.permissions import GRANTS, allowed
from engine.service.guard import GUARDED
from tests.conftest import Team

T, D, R, A = Role.TECHNICIAN, Role.DOCTOR, Role.RESEARCHER, Role.ADMINISTRATOR
EVERYBODY = {T, D, R, A}

#: Who may call what. A new method without a row here fails the first test.
MAY: dict[str, set[Role]] = {
    "whoami": EVERYBODY,
    "sign_out": EVERYBODY,
    "change_password": EVERYBODY,
    "prove": EVERYBODY,
    "sessions": EVERYBODY,
    "end_session": EVERYBODY,
    "sign_out_everywhere": EVERYBODY,
    "second_factor": EVERYBODY,
    "begin_second_factor": EVERYBODY,
    "confirm_second_factor": EVERYBODY,
    "renew_recovery_codes": EVERYBODY,
    "remove_second_factor": EVERYBODY,
    "close_viewing": EVERYBODY,
    "offer_exchange": EVERYBODY,
    "answer_exchange": EVERYBODY,
    "accounts": {A},
    "create_account": {A},
    "account_requests": {A},
    "approve_account": {A},
    "decline_account": {A},
    "link_identity": {A},
    "account_sessions": {A},
    "end_account_sessions": {A},
    "reset_second_factor": {A},
    "set_account_role": {A},
    "set_account_enabled": {A},
    "reset_password": {A},
    "audit_entries": {A},
    "verify_audit": {A},
    "verify_roster": {A},
    "accept_roster": set(),
    "write_checkpoint": {A},
    "check_checkpoint": {A},
    "health": {A},
    "metrics": {A},
    "rotate_keys": {A},
    "recovery_shares": {A},
    "drill_shares": {A},
    "verify_images": {A},
    "statistics": {D, R, A},
    "statistics_file": {D, R, A},
    "storage": {A},
    "audit_file": {A},
    "setting_entries": {A},
    "change_setting": {A},
    "reset_setting": {A},
    "randomness": {D, R, A},
    "patients": {T, D},
    "patient": {T, D},
    "create_patient": {T},
    "update_patient": {T},
    "merge_patients": {T},
    "erase_patient": {A},
    "erase_image": {A},
    "make_backup": {A},
    "backups": {A},
    "verify_backup": {A},
    "missing_in_backup": {A},
    "patient_history": {D},
    "notes": {D},
    "add_note": {D},
    "upload": {T},
    "seal_batch": {T},
    "check_upload": {T},
    "work_token": {T},
    "drafts": {T},
    "open_draft": {T},
    "draft_frame": {T},
    "seal": {T},
    "discard_draft": {T},
    "images": {T, D},
    "image": {T, D},
    "find_images": {T, D},
    "image_choices": {T, D},
    "display": {T, D},
    "open_restoration": {D},
    "side_markers": {D},
    "regions": {T, D},
    "region": {T, D},
    "masked_frame": {T, D},
    "grid_picture": {T, D},
    "thumbnail": {T, D},
    "masked_file": {T, D},
    "export_package": {T, D},
    "image_history": {T, D},
    "flag_missed": {T, D},
    "restore": {D},
    "restoration": {D},
    "withdrawn": {D},
    "reopen": {D},
    "restored_frame": {D},
    "restored_file": {D},
    "restore_package": {D},
    "deliver_file": {D},
    "deliver_region": {D},
    "profile_entries": {A},
    "known_networks": {A},
    "save_profile": {A},
    "reset_profile": {A},
    "guests": {A},
    "inspect_guest": {A},
    "add_guest": {A},
    "remove_guest": {A},
    "networks": {A},
    "evaluations": {A},
    "add_evaluation": {A},
    "drift": {A},
    "compare_profiles": {A},
    "assessment": {D},
    "doctors": {T, D, A},
    "care_team": {T, D, A},
    "assign_care": {T, D, A},
    "end_care": {T, D, A},
    "care_relations": {A},
    "break_glass": {D},
    "my_glass": {D},
    "end_glass": {D},
    "revoke_glass": {A},
    "glass": {A},
    "glass_due": {A},
    "glass_entries": {A},
    "review_glass": {A},
    "notices": {A},
    "training_cases": set(),
    "export_training": set(),
    "send_test_mail": {A},
    "restorable_classes": {A},
    "set_restorable_classes": {A},
}

#: Methods that need no session, and why.
OPEN = {
    "open": "makes the engine",
    "from_backup": "makes the engine from a backup and the root key",
    "close": "ends the engine",
    "setup_needed": "the sign-in page must know",
    "setup_code": "for the console; no page or route hands it out",
    "create_first_administrator": "guarded by the console's code",
    "sign_in": "how a session begins",
    "sign_in_api": "the same without a browser",
    "finish_sign_in": "its second step, guarded by the challenge and the code",
    "sign_in_identity": "how a session begins by single sign-on",
    "request_account": "asks for an account; an administrator answers",
    "refresh": "guarded by the refresh token",
    "revoke": "guarded by the token that it ends",
    "signing_key": "a public key",
    "end_work": "forgets a token",
    "may": "answers for the session itself",
    "about": "names and licences of networks",
    "profiles": "names of specialties",
    "profile": "one of them",
    "operator_token": "refused in a server",
    "record_read": "writes a row of the log",
    "bound": "answers for a caller that is resolved already",
    "sees": "answers for a caller that is resolved already",
    "granted": "answers for a caller that is resolved already",
    "open_patients": "answers for a caller that is resolved already",
    "refuse_unseen": "refuses",
    "caller": "resolves a token",
    "open_facts": "takes a key that only the engine holds",
    "resolve_patient": "an opaque key for a number; shows nothing",
    "warm": "opens the numbers early; shows nothing",
    "sweep": "deletes what no row needs",
    "start_upkeep": "the server's own work in the background",
}


def test_the_table_is_complete() -> None:
    public = {name for name, _ in inspect.getmembers(Engine, inspect.isroutine) if name[0] != "_"}
    assert set(GUARDED) == set(MAY)
    assert public == set(MAY) | set(OPEN)


@pytest.mark.parametrize("method", sorted(MAY))
@pytest.mark.parametrize("role", sorted(EVERYBODY))
def test_the_permissions_say_what_the_table_says(method: str, role: Role) -> None:
    permission = GUARDED[method]
    assert (permission is None or allowed(role, permission)) == (role in MAY[method])


def _call(engine: Engine, method: str, token: str) -> None:
    """Call with arguments that fit the signature; what they name does not exist."""
    bound: Callable = getattr(engine, method)
    inner = inspect.signature(getattr(Engine, method))
    given = [
        p for p in list(inner.parameters.values())[2:]
        if p.default is p.empty and p.kind is not p.VAR_KEYWORD
    ]  # fmt: skip
    result = bound(token, *["nothing-of-this-name"] * len(given))
    if inspect.isgenerator(result):
        next(result, None)


@pytest.mark.parametrize("role", sorted(EVERYBODY))
def test_every_method_refuses_those_who_may_not(engine: Engine, team: Team, role: Role) -> None:
    token = team.token(role)
    forbidden = [m for m, roles in MAY.items() if role not in roles]
    for method in forbidden:
        with pytest.raises(errors.PermissionDenied):
            _call(engine, method, token)
    refused = engine.audit_entries(team.administrator, query="refused", limit=1000)
    me = engine.whoami(token).username
    assert {e.detail["method"] for e in refused if e.actor == me} >= set(forbidden)


@pytest.mark.parametrize("method", sorted(MAY))
def test_every_method_refuses_visitors_without_a_session(engine: Engine, method: str) -> None:
    for token in ("", "nonsense-nonsense-nonsense"):
        with pytest.raises(errors.NotSignedIn):
            _call(engine, method, token)


def test_no_role_is_clinical_and_administrative_at_once() -> None:
    clinical = {Permission.RESTORE, Permission.VIEW_MASKED, Permission.LIST_PATIENTS}
    assert not clinical & GRANTS[Role.ADMINISTRATOR]
    assert not clinical & GRANTS[Role.RESEARCHER]
    assert Permission.RESTORE not in GRANTS[Role.TECHNICIAN]
