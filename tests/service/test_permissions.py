"""Every engine method against every role: the table is complete, and the engine keeps it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from operator import attrgetter

import pytest

from engine import Engine, Permission, Role, Settings, errors
from engine.operations.guard import GUARDED
from engine.permissions import GRANTS, allowed
from tests.conftest import Team
from tests.fakes import FakeHost, ScriptedDetector

T, D, R, A = Role.TECHNICIAN, Role.DOCTOR, Role.RESEARCHER, Role.ADMINISTRATOR
EVERYBODY = {T, D, R, A}

#: Who may call what. A new method without a row here fails the first test.
MAY: dict[str, set[Role]] = {
    "sessions.whoami": EVERYBODY,
    "sessions.sign_out": EVERYBODY,
    "account.change_password": EVERYBODY,
    "sessions.prove": EVERYBODY,
    "sessions.mine": EVERYBODY,
    "sessions.end": EVERYBODY,
    "sessions.sign_out_everywhere": EVERYBODY,
    "account.second_factor": EVERYBODY,
    "account.begin_passkey": EVERYBODY,
    "account.begin_second_factor": EVERYBODY,
    "account.confirm_passkey": EVERYBODY,
    "account.remove_passkey": EVERYBODY,
    "sessions.ask_passkey": EVERYBODY,
    "sessions.renew": EVERYBODY,
    "account.confirm_second_factor": EVERYBODY,
    "account.renew_recovery_codes": EVERYBODY,
    "account.remove_second_factor": EVERYBODY,
    "images.close": EVERYBODY,
    "exchange.offer": EVERYBODY,
    "exchange.answer": EVERYBODY,
    "people.accounts": {A},
    "people.create": {A},
    "people.requests": {A},
    "people.approve": {A},
    "people.decline": {A},
    "people.proposals": {A},
    "people.confirm": {A},
    "people.drop_proposal": {A},
    "people.link_identity": {A},
    "people.sessions": {A},
    "people.end_sessions": {A},
    "people.reset_second_factor": {A},
    "people.set_role": {A},
    "people.set_enabled": {A},
    "people.reset_password": {A},
    "audit.entries": {A},
    "audit.of_actions": {A},
    "audit.verify": {A},
    "audit.verify_access": {A},
    "audit.accept_access": set(),
    "audit.write_checkpoint": {A},
    "audit.check_checkpoint": {A},
    "health.state": {A},
    "health.metrics": {A},
    "keys.rotate": {A},
    "keys.recovery_shares": {A},
    "keys.drill_shares": {A},
    "health.verify_images": {A},
    "statistics.tables": {D, R, A},
    "statistics.export": {D, R, A},
    "health.storage": {A},
    "recipients.entries": {A},
    "recipients.save": {A},
    "recipients.remove": {A},
    "recipients.choices": {D},
    "recipients.lists": {D},
    "recipients.save_pseudonyms": {D},
    "recipients.pseudonym": {D},
    "recipients.patient_of": {D},
    "cohorts.public_key": {D},
    "cohorts.prepare": {D},
    "cohorts.files": {D},
    "audit.export": {A},
    "audit.export_fhir": {A},
    "audit.patient_report": {A},
    "runtime_settings.entries": {A},
    "runtime_settings.change": {A},
    "runtime_settings.recipients": {A},
    "runtime_settings.reset": {A},
    "randomness.measure": {D, R, A},
    "patients.search": {T, D},
    "patients.get": {T, D},
    "archives.masked": {T, D},
    "archives.originals": {D},
    "studies.of_patient": {T, D},
    "studies.get": {T, D},
    "studies.study_of": {T, D},
    "studies.restore": {D},
    "studies.restoration": {D},
    "studies.restorations": {D},
    "studies.open_image": {D},
    "studies.restored_frame": {D},
    "studies.close": EVERYBODY,
    "patients.create": {T},
    "patients.update": {T},
    "patients.merge": {T},
    "patients.extent": {A},
    "patients.erase": {A},
    "images.erase": {A},
    "backups.make": {A},
    "backups.names": {A},
    "backups.verify": {A},
    "backups.missing": {A},
    "backups.locked_until": {A},
    "patients.history": {D},
    "patients.notes": {D},
    "patients.add_note": {D},
    "drafts.upload": {T},
    "batches.seal": {T},
    "batches.look": {T},
    "intakes.headers": {T},
    "intakes.take": {T},
    "intakes.differs": {T},
    "worklist.groups": {T},
    "worklist.preview": {T},
    "worklist.confirm": {T},
    "worklist.confirmed": {T},
    "worklist.take_back": {T},
    "worklist.boxes": {T},
    "worklist.keep_boxes": {T},
    "worklist.carry": {T},
    "worklist.decide": {T},
    "worklist.hold": {T},
    "worklist.leave": {T},
    "intakes.unseen": {T},
    "drafts.check": {T},
    "batches.work_token": {T},
    "drafts.waiting": {T},
    "drafts.open": {T},
    "drafts.frame": {T},
    "drafts.seal": {T},
    "drafts.seal_undoubted": {T},
    "drafts.refuse_drawn": {T},
    "drafts.discard": {T},
    "images.get": {T, D},
    "search.images": {T, D},
    "search.series": {T, D},
    "search.choices": {T, D},
    "images.display": {T, D},
    "images.open_restoration": {D},
    "images.side_markers": {D},
    "images.regions": {T, D},
    "images.region": {T, D},
    "images.masked_frame": {T, D},
    "images.grid_picture": {T, D},
    "images.thumbnail": {T, D},
    "images.masked_file": {T, D},
    "packages.export": {T, D},
    "packages.whole": {T, D},
    "images.history": {T, D},
    "withdrawals.flag": {T, D},
    "withdrawals.question": {D},
    "images.restore": {D},
    "images.restoration": {D},
    "withdrawals.waiting": {D},
    "withdrawals.reopen": {D},
    "images.restored_frame": {D},
    "images.restored_file": {D},
    "packages.restore": {D},
    "exchange.deliver_file": {D},
    "exchange.deliver_region": {D},
    "nodes.entries": {A},
    "nodes.save": {A},
    "nodes.remove": {A},
    "sendings.rules": {A},
    "sendings.save_rule": {A},
    "sendings.remove_rule": {A},
    "sendings.entries": {A},
    "sendings.counts": {A},
    "sendings.retry": {A},
    "sendings.cancel": {A},
    "sendings.destinations": {T, D},
    "sendings.forward": {T, D},
    "sendings.send_original": {D},
    "sendings.send_original_study": {D},
    "reception.receive": set(),
    "reception.store": {T},
    "queries.allowed": set(),
    "queries.find": set(),
    "queries.select": set(),
    "queries.fetch": set(),
    "queries.destination": set(),
    "objects.search": {T, D},
    "objects.of_study": {T, D},
    "objects.file": {T, D},
    "objects.frames": {T, D},
    "objects.bulk": {T, D},
    "reception.held": {T},
    "reception.held_studies": {T},
    "reception.held_with": {T},
    "reception.assign": {T},
    "reception.discard": {T},
    "profiles.entries": {A},
    "profiles.known_networks": {A},
    "profiles.save": {A},
    "profiles.reset": {A},
    "custom_networks.records": {A},
    "custom_networks.inspect": {A},
    "custom_networks.add": {A},
    "custom_networks.remove": {A},
    "versions.entries": {A},
    "versions.take_in": {A},
    "versions.begin_shadow": {A},
    "versions.end_shadow": {A},
    "versions.differences": {T},
    "versions.difference_picture": {T},
    "versions.promote": {A},
    "versions.proposals": {A},
    "versions.confirm": {A},
    "versions.drop_proposal": {A},
    "versions.roll_back": {A},
    "training.in_force": set(),
    "models.compare_version": {A},
    "models.networks": {A},
    "models.evaluations": {A},
    "models.add_evaluation": {A},
    "models.drift": {A},
    "models.compare": {A},
    "devices.places": {A},
    "devices.always": {A},
    "devices.stop": {A},
    "release.streams": {A},
    "release.curve": {A},
    "release.suspend": {A},
    "release.saved_this_week": {D, R, A},
    "images.assessment": {D},
    "care.doctors": {T, D, A},
    "care.team": {T, D, A},
    "care.assign": {T, D, A},
    "care.end": {T, D, A},
    "care.relations": {A},
    "care.break_glass": {D},
    "care.my_emergency_access": {D},
    "care.end_emergency_access": {D},
    "care.revoke_emergency_access": {A},
    "care.emergency_access": {A},
    "care.emergency_access_due": {A},
    "care.emergency_access_entries": {A},
    "care.review_emergency_access": {A},
    "health.notices": {A},
    "training.cases": set(),
    "training.export": set(),
    "health.send_test_mail": {A},
    "care.restorable_classes": {A},
    "care.set_restorable_classes": {A},
}

#: Methods that need no session, and why.
OPEN = {
    "open": "makes the engine",
    "from_backup": "makes the engine from a backup and the root key",
    "close": "ends the engine",
    "people.setup_needed": "the sign-in page must know",
    "people.setup_code": "for the console; no page or route hands it out",
    "people.create_first_administrator": "guarded by the console's code",
    "sessions.sign_in": "how a session begins",
    "sessions.sign_in_api": "the same without a browser",
    "sessions.finish_sign_in": "its second step, guarded by the challenge and the code",
    "sessions.sign_in_identity": "how a session begins by single sign-on",
    "people.request": "asks for an account; an administrator answers",
    "sessions.refresh": "guarded by the refresh token",
    "sessions.revoke": "guarded by the token that it ends",
    "keys.signing_key": "a public key",
    "batches.end_work": "forgets a token",
    "worklist.release": "lets others work on a draft; called for an account whose work has ended",
    "batches.look_as": "for the reception; takes a caller that is resolved already",
    "objects.tag": "the tag of a keyword",
    "objects.study_id": "an opaque key for a UID; shows nothing",
    "reception.admit": "how a node begins; guarded by its title, address and certificate",
    "reception.leave": "forgets a token",
    "reception.start": "the server's own work in the background",
    "reception.stop": "ends it",
    "reception.look": "one round of it",
    "sendings.start": "the server's own work in the background",
    "sendings.stop": "ends it",
    "sendings.send_due": "one round of it; asks again what was asked when it was queued",
    "sessions.may": "answers for the session itself",
    "models.about": "names and licences of networks",
    "profiles.by_name": "names of specialties",
    "profiles.get": "one of them",
    "operator_token": "refused in a server",
    "caller": "resolves a token",
    "patients.resolve": "an opaque key for a number; shows nothing",
    "statistics.warm": "opens the numbers early; shows nothing",
    "upkeep.sweep": "deletes what no row needs",
    "upkeep.forget_ended": "forgets what ended sessions had open",
    "upkeep.move_files": "moves stored files to where settings say; shows nothing",
    "upkeep.look_for_copies": "compares a word beside the files with the catalog; shows nothing",
    "upkeep.start": "the server's own work in the background",
    "upkeep.stop": "ends it",
    "upkeep.tend": "one round of it",
    "upkeep.look_at_clock": "compares the clock with the log; shows nothing",
    "backups.make_as": "for the upkeep; takes a caller that is resolved already",
    "backups.last_at": "a time",
    "backups.last": "times",
    "training.expire": "for the upkeep; ends what is kept too long",
    "runtime_settings.apply": "for the start; what an administrator changed before",
    "versions.meet": "tells the detector which version looks; shows nothing",
    "custom_networks.meet": "tells the detector what there is; shows nothing",
}


def services(engine: Engine) -> dict[str, object]:
    """The services of an engine by the name under which callers know them."""
    held = vars(engine).items()
    return {name: part for name, part in held if name[0] != "_" and name != "context"}


def test_the_table_is_complete(engine: Engine) -> None:
    public = {name for name, _ in inspect.getmembers(Engine, inspect.isroutine) if name[0] != "_"}
    for name, service in services(engine).items():
        methods = inspect.getmembers(service, inspect.isroutine)
        public |= {f"{name}.{method}" for method, _ in methods if method[0] != "_"}
        # ``needs`` names a method after its module: callers must know it by the same name.
        assert type(service).__module__ == f"engine.service.{name}"
    assert set(GUARDED) == set(MAY)
    assert public == set(MAY) | set(OPEN)


@pytest.mark.parametrize("method", sorted(MAY))
@pytest.mark.parametrize("role", sorted(EVERYBODY))
def test_the_permissions_say_what_the_table_says(method: str, role: Role) -> None:
    permission = GUARDED[method]
    assert (permission is None or allowed(role, permission)) == (role in MAY[method])


def _call(engine: Engine, method: str, token: str) -> None:
    """Call with arguments that fit the signature; what they name does not exist."""
    bound: Callable = attrgetter(method)(engine)
    given = [
        p for p in list(inspect.signature(bound).parameters.values())[1:]
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
    refused = engine.audit.entries(team.administrator, query="refused", limit=1000)
    me = engine.sessions.whoami(token).username
    assert {e.detail["method"] for e in refused if e.actor == me} >= set(forbidden)


@pytest.fixture(scope="module")
def visited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """One engine for every method: what it refuses leaves nothing that another call could find."""
    folder = tmp_path_factory.mktemp("visited")
    settings = Settings(data=folder / "data", key_file=folder / "root.key", bcrypt_cost=4)
    engine = Engine.open(
        settings, FakeHost(settings.data / "blobs"), detector=ScriptedDetector(settings)
    )
    yield engine
    engine.close()


@pytest.mark.parametrize("method", sorted(MAY))
def test_every_method_refuses_visitors_without_a_session(visited: Engine, method: str) -> None:
    for token in ("", "nonsense-nonsense-nonsense"):
        with pytest.raises(errors.NotSignedIn):
            _call(visited, method, token)


def test_no_role_is_clinical_and_administrative_at_once() -> None:
    clinical = {Permission.RESTORE, Permission.VIEW_MASKED, Permission.LIST_PATIENTS}
    assert not clinical & GRANTS[Role.ADMINISTRATOR]
    assert not clinical & GRANTS[Role.RESEARCHER]
    assert Permission.RESTORE not in GRANTS[Role.TECHNICIAN]
