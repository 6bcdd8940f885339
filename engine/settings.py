"""Settings: environment, then file, then default; read once and frozen.

Refuses unknown names in the file, values out of range, and secrets in the file.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from engine.errors import SettingsError
from engine.permissions import ACCOUNT_ROLES, Role

PREFIX = "MEDSEC_"
_ADDRESS = re.compile(r"[^\s@<>,;]+@[^\s@<>,;]+", re.ASCII)
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


class Secret(str):
    """A string that does not show itself in a repr, a log or a traceback."""

    def __repr__(self) -> str:
        return "Secret('**********')"


def _setting(
    default: Any, help: str, check: Callable[[Any], bool] | None = None, unit: str = ""
) -> Any:
    return field(default=default, metadata={"help": help, "check": check, "unit": unit})


def _unit_interval(value: float) -> bool:
    return 0.0 <= value <= 1.0


def _is_origin(text: str) -> bool:
    scheme, _, rest = text.partition("://")
    return scheme in ("http", "https") and bool(rest) and not set(rest) & set("/*?#@")


def _positive(value: float) -> bool:
    return value > 0


def _role_names(text: str) -> set[str]:
    return {name.strip() for name in text.split(",") if name.strip()}


@dataclass(frozen=True)
class Settings:
    """Every knob. The environment name is ``MEDSEC_`` plus the field in capitals.

    Raises:
        SettingsError: A value is of the wrong type or out of range.
    """

    data: Path = _setting(Path("data"), "Folder of the catalog and the encrypted files")
    key_file: Path | None = _setting(
        None,
        "Root keys file, mode 0600, outside the data folder; by default ~/.config/medsec/root.key",
    )
    key: Secret | None = _setting(
        None, "Root keys themselves, instead of a file (environment only)"
    )
    key_passphrase: Secret | None = _setting(
        None, "Passphrase from which the root key is derived, instead of a file (environment only)"
    )
    checkpoint_dir: Path | None = _setting(
        None, "Folder outside the data folder where signed audit checkpoints are written"
    )
    backup_dir: Path | None = _setting(None, "Folder outside the data folder for backups")
    backups_kept: int = _setting(14, "How many backups are kept", _positive)
    backup_hours: float = _setting(
        24.0, "The server makes a backup this often; 0 leaves it to you", lambda v: v >= 0, "h"
    )
    backup_alarm_hours: float = _setting(
        50.0, "The health page warns when the last good backup is older", _positive, "h"
    )
    batch_workers: int = _setting(
        0, "Worker processes of a batch; 0 is one per processor", lambda v: v >= 0
    )
    batch_scheduler: str = _setting(
        "", "Address (tls://host:port) of a Dask scheduler whose workers seal batches"
    )
    batch_ca: Path | None = _setting(None, "Certificate authority of that scheduler, PEM")
    batch_cert: Path | None = _setting(None, "Our certificate for it, PEM")
    batch_key: Path | None = _setting(None, "Our private key for it, PEM")
    metrics_token: Secret | None = _setting(
        None, "Bearer token with which a monitoring system reads /api/metrics/ and health"
    )
    scrub_hours: float = _setting(
        24.0, "The server checks every stored file this often; 0 never", lambda v: v >= 0, "h"
    )
    scrub_mb_per_second: float = _setting(10.0, "Most that this check reads", _positive, "MB/s")
    profile: str = _setting("general", "Specialty profile that an upload starts with")
    confidence: float = _setting(
        0.25, "Boxes of at least this confidence are sealed", _unit_interval
    )
    proposal_confidence: float = _setting(
        0.10,
        "Boxes from here up to the one above are proposals and make a person look",
        _unit_interval,
    )
    iou: float = _setting(
        0.45, "Boxes of a class that overlap more are merged (NMS IoU)", _unit_interval
    )
    padding: float = _setting(
        0.04, "Padding of a box as a share of its longer side", _unit_interval
    )
    padding_min_px: int = _setting(4, "Padding of a box, at least", lambda v: v >= 0, "px")
    device: str = _setting(
        "auto", "Where networks run: auto, cpu or cuda", lambda v: v in ("auto", "cpu", "cuda")
    )
    threads: int = _setting(0, "Processor threads for networks; 0 takes all", lambda v: v >= 0)
    picture_limit_mb: int = _setting(20, "Largest picture file", _positive, "MB")
    dicom_limit_mb: int = _setting(256, "Largest DICOM file", _positive, "MB")
    model_limit_mb: int = _setting(
        100, "Largest network that an administrator may send", _positive, "MB"
    )
    max_side_px: int = _setting(32_768, "Longest side of an image", _positive, "px")
    max_decoded_mb: int = _setting(
        1024, "Largest image once decoded, all frames together", _positive, "MB"
    )
    restore_minutes: float = _setting(
        5.0, "How long a restoration stays in memory", lambda v: 0 < v <= 60, "min"
    )
    restore_memory_mb: int = _setting(
        2048, "Memory for all pictures that are open or were just sent", _positive, "MB"
    )
    reason_required: bool = _setting(True, "A restoration is refused without a reason")
    session_idle_minutes: float = _setting(
        15.0, "A session ends after this idle time", _positive, "min"
    )
    session_hours: float = _setting(
        8.0, "A session ends after this time at the latest", _positive, "h"
    )
    bcrypt_cost: int = _setting(12, "Cost of a password hash", lambda v: 4 <= v <= 18)
    password_min_length: int = _setting(
        15,
        "Shortest password (NIST SP 800-63B-4: 15, or 8 where everybody has a second factor)",
        lambda v: v >= 8,
    )
    second_factor: str = _setting(
        "",
        "Roles that must have a second factor, with commas between them; others may have one",
        lambda v: _role_names(v) <= set(ACCOUNT_ROLES),
    )
    single_sign_on: Path | None = _setting(
        None, "TOML file, mode 0600, with Streamlit's [auth] section for OpenID Connect"
    )
    step_up_minutes: float = _setting(
        0.0,
        "Before a restoration, password or code must have been typed within this time;"
        " 0 does not ask again",
        lambda v: v >= 0,
        "min",
    )
    care_relation: bool = _setting(
        False, "Doctors see only patients they treat; others open by breaking the glass"
    )
    requests_per_minute: int = _setting(
        3000, "Requests of one account to the API in a minute", _positive
    )
    anonymous_requests_per_minute: int = _setting(
        60, "Requests of strangers from one address to the API in a minute", _positive
    )
    batch_limit_mb: int = _setting(512, "All batches that wait in memory together", _positive, "MB")
    cors_origins: str = _setting(
        "",
        "Web origins whose pages may call the API, with commas between them",
        lambda v: all(_is_origin(o) for o in v.replace(",", " ").split()),
    )
    keep_missed: bool = _setting(
        False,
        "Keep an image in which something was missed, encrypted, for training; wants consent or"
        " another legal ground",
    )
    training_days: int = _setting(365, "How long such cases are kept", _positive, "d")
    smtp_host: str = _setting("", "Mail server for notices to administrators; empty sends none")
    smtp_port: int = _setting(587, "Port of the mail server", lambda v: 0 < v < 65536)
    smtp_security: str = _setting(
        "starttls",
        "How mail travels: starttls, tls, or none (only to a server on this machine)",
        lambda v: v in ("starttls", "tls", "none"),
    )
    smtp_user: str = _setting("", "User name at the mail server; empty signs in nowhere")
    smtp_password: Secret | None = _setting(None, "Password at the mail server (environment only)")
    smtp_ca_file: Path | None = _setting(
        None, "Certificates of the mail server's authority, by default the system's"
    )
    mail_from: str = _setting("", "Sender's address of notices")
    mail_to: str = _setting("", "Addresses that get notices, with commas between them")
    write_wait_seconds: float = _setting(
        10.0, "How long a write waits for its turn", _positive, "s"
    )
    host: str = _setting("127.0.0.1", "Address that the server binds to")
    tls: bool = _setting(
        False, "Serve over TLS; without a certificate of your own, one is made beside the root key"
    )
    tls_certificate: Path | None = _setting(None, "Certificate for TLS, PEM, with its chain")
    tls_key: Path | None = _setting(None, "Its private key, PEM")
    port: int = _setting(8501, "Port that the server binds to", lambda v: 0 <= v < 65536)
    demo: bool = _setting(False, "Show that this is a demo with invented patients")

    def __post_init__(self) -> None:
        for f in fields(self):
            check = f.metadata["check"]
            value = getattr(self, f.name)
            if check is not None and not check(value):
                raise SettingsError(
                    f"{PREFIX}{f.name.upper()} = {value!r} is out of range: {f.metadata['help']}."
                )
        if self.proposal_confidence > self.confidence:
            raise SettingsError(
                "MEDSEC_PROPOSAL_CONFIDENCE must not be above MEDSEC_CONFIDENCE:"
                " what is sealed cannot be less certain than what is proposed."
            )
        if self.smtp_host:
            for address in (self.mail_from, *(self.mail_recipients or ("",))):
                if not _ADDRESS.fullmatch(address):
                    raise SettingsError(
                        "MEDSEC_SMTP_HOST needs addresses in MEDSEC_MAIL_FROM and MEDSEC_MAIL_TO."
                    )
            if self.smtp_security == "none" and self.smtp_host not in _THIS_MACHINE:
                raise SettingsError(
                    "MEDSEC_SMTP_SECURITY=none is for a mail server on this machine only."
                )

    @property
    def mail_recipients(self) -> tuple[str, ...]:
        """Who gets notices."""
        return tuple(a.strip() for a in self.mail_to.split(",") if a.strip())

    @property
    def second_factor_roles(self) -> frozenset[Role]:
        """Roles that must have a second factor."""
        return frozenset(map(Role, _role_names(self.second_factor)))

    def changed(self, name: str, raw: str) -> Settings:
        """A copy with one setting from text, as the environment would give it.

        Raises:
            SettingsError: Wrong type or out of range.
        """
        kind = next(str(f.type) for f in fields(self) if f.name == name)
        return replace(self, **{name: _parse(name, raw, kind)})

    @classmethod
    def load(cls, environ: Mapping[str, str], **override: Any) -> Settings:
        """Read ``MEDSEC_*`` variables, then the TOML file ``MEDSEC_CONFIG``, then defaults.

        Args:
            environ: Usually ``os.environ``.
            override: Values that win over all three, for command-line flags.

        Raises:
            SettingsError: Unknown name, wrong type, out of range, or a secret in the file.
        """
        known = {f.name: f for f in fields(cls)}
        values: dict[str, Any] = {}
        config = environ.get(PREFIX + "CONFIG")
        if config:
            values.update(_from_file(Path(config), known))
        for name in known:
            raw = environ.get(PREFIX + name.upper())
            if raw is not None:
                values[name] = _parse(name, raw, str(known[name].type))
        values.update({k: v for k, v in override.items() if v is not None})
        return cls(**values)


def _from_file(path: Path, known: Mapping[str, Any]) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as err:
        raise SettingsError(f"The settings file {path} cannot be read: {err}.") from err
    values = {}
    for name, raw in table.items():
        if name not in known:
            raise SettingsError(f"The settings file {path} has an unknown setting {name!r}.")
        if "Secret" in known[name].type:
            raise SettingsError(
                f"The setting {name!r} is a secret and may only come from the environment."
            )
        values[name] = _parse(name, str(raw), known[name].type)
    return values


_TRUTH = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False, "": False}


def _parse(name: str, raw: str, kind: str) -> Any:
    """Turn text into the type of a field (annotations are strings here)."""
    try:
        if kind.startswith("bool"):
            return _TRUTH[raw.strip().lower()]
        if kind.startswith("Path"):
            return Path(raw).expanduser() if raw else None
        if kind.startswith("Secret"):
            return Secret(raw) if raw else None
        return {"int": int, "float": float, "str": str}[kind](raw)
    except (KeyError, ValueError) as err:
        shown = "the value" if "Secret" in kind else repr(raw)
        raise SettingsError(f"{PREFIX}{name.upper()}: {shown} is not a valid {kind}.") from err
