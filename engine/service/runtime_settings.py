"""Settings as the administrator sees and changes them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime, timedelta

from engine.errors import InputError
from engine.operations.context import Context
from engine.operations.guard import Guard, needs
from engine.permissions import Permission
from engine.records import Caller
from engine.settings import PREFIX, Settings
from engine.store.runtime_settings import CHANGEABLE
from engine.vault import Recipient, recipients_of


@dataclass(frozen=True)
class SettingEntry:
    """One setting. Secrets are never among them.

    Args:
        name: As in ``engine/settings.py``.
        variable: As in the environment.
        value, started: In force, and as the server was started; as text.
        effect: From when on a change counts; empty where it takes a new start.
        changed_at, changed_by: Of a change that is in force.
    """

    name: str
    variable: str
    value: str
    started: str
    unit: str
    help: str
    effect: str
    changed_at: datetime | None
    changed_by: str

    @property
    def changeable(self) -> bool:
        return bool(self.effect)


class RuntimeSettings:
    """Settings that can change while the server runs."""

    def __init__(self, context: Context, guard: Guard) -> None:
        self._accounts = context.accounts
        self._audit = context.audit
        self._database = context.database
        self._detector = context.detector
        self._host = context.host
        self._live = context.live
        self._open_images = context.open_images
        self._sessions = context.sessions
        self._setting_changes = context.setting_changes
        self._guard = guard

    @needs(Permission.MANAGE_SETTINGS)
    def entries(self, caller: Caller) -> list[SettingEntry]:
        """Every setting that is no secret, those first that can be changed."""
        changes = self._setting_changes.changes()
        entries = []
        for f in fields(Settings):
            if "Secret" in str(f.type):
                continue
            change = changes.get(f.name)
            entries.append(
                SettingEntry(
                    name=f.name,
                    variable=PREFIX + f.name.upper(),
                    value=_text(getattr(self._live.settings, f.name)),
                    started=_text(getattr(self._setting_changes.start, f.name)),
                    unit=f.metadata["unit"],
                    help=f.metadata["help"],
                    effect=CHANGEABLE.get(f.name, ""),
                    changed_at=change.changed_at if change else None,
                    changed_by=change.changed_by if change else "",
                )
            )
        return sorted(entries, key=lambda e: not e.changeable)

    @needs(Permission.MANAGE_SETTINGS)
    def change(self, caller: Caller, name: str, value: str) -> None:
        """Change a setting that can change while the server runs; audited with both values.

        Raises:
            InputError: Not changeable, not of its type, or out of range. Nothing is changed.
        """
        if name == "profile" and value.strip() not in self._detector.profiles:
            raise InputError("There is no such specialty profile.")
        if name == "recipient_certificates":
            for recipient in recipients_of(value):
                if not recipient.valid(self._host.now()):
                    raise InputError(
                        f"The certificate {recipient.subject} is not valid now. Enter a valid one."
                    )
        with self._database.write() as tx:
            after = self._setting_changes.save(
                tx, self._audit, caller, self._live.settings, name, value
            )
        self.apply(after)

    @needs(Permission.MANAGE_SETTINGS)
    def recipients(self, caller: Caller) -> tuple[Recipient, ...]:
        """Whose certificates are named to read original attributes in masked DICOM files."""
        return self._live.named_recipients

    @needs(Permission.MANAGE_SETTINGS)
    def reset(self, caller: Caller, name: str) -> None:
        """Go back to what the server was started with. Raises InputError."""
        with self._database.write() as tx:
            after = self._setting_changes.reset(tx, self._audit, caller, self._live.settings, name)
        self.apply(after)

    def apply(self, settings: Settings) -> None:
        """Let these settings count; what is read at each action needs no more than this."""
        self._live.use(settings)
        self._open_images.lifetime = timedelta(minutes=settings.restore_minutes)
        self._sessions.idle = timedelta(minutes=settings.session_idle_minutes)
        self._sessions.absolute = timedelta(hours=settings.session_hours)
        self._accounts.min_length = settings.password_min_length


def _text(value: object) -> str:
    return "" if value is None else str(value)
