"""Settings from environment, file and defaults, in this order; read once and frozen.

Unknown names in the file, values out of range, and secrets in the file are errors.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

from engine.errors import SettingsError
from engine.permissions import ACCOUNT_ROLES, Role

PREFIX = "MEDSEC_"
_ADDRESS = re.compile(r"[^\s@<>,;]+@[^\s@<>,;]+", re.ASCII)
#: A bucket, and a prefix of plain characters that every store takes as they are.
_BUCKET = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_-][A-Za-z0-9._-]*)+/?")
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


class Secret(str):
    """A string that is hidden in repr, logs and tracebacks."""

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


def _is_secure_origin(text: str) -> bool:
    """May a browser use passkeys there: over TLS, or on this machine? An address has no domain."""
    scheme, _, rest = text.partition("://")
    host = rest.partition(":")[0]
    named = bool(host.strip("0123456789.")) and not rest.startswith("[")
    return _is_origin(text) and named and (scheme == "https" or host == "localhost")


def _is_encrypted(origin: str) -> bool:
    """Over TLS, or on this machine?"""
    scheme, _, rest = origin.partition("://")
    return scheme == "https" or rest.rpartition(":")[0] in _THIS_MACHINE or rest in _THIS_MACHINE


#: What stands for the data folder where another place can be named.
FOLDER: Final = "folder"


def _is_bucket(url: str) -> bool:
    return _BUCKET.fullmatch(url) is not None


def within(one: str, other: str) -> bool:
    """Does either of two places in buckets hold the other?"""
    first, second = (f"{url.rstrip('/')}/" for url in (one, other))
    return first.startswith(second) or second.startswith(first)


def _positive(value: float) -> bool:
    return value > 0


def _role_names(text: str) -> set[str]:
    return {name.strip() for name in text.split(",") if name.strip()}


@dataclass(frozen=True)
class Settings:
    """All settings. The environment variable is ``MEDSEC_`` plus the field name in capitals.

    Raises:
        SettingsError: A value is of the wrong type or out of range.
    """

    data: Path = _setting(Path("data"), "Folder of the catalog and the encrypted files")
    database: Secret | None = _setting(
        None,
        "URL of a PostgreSQL database for catalog and audit log, postgresql://...; by default they"
        " are a file in the data folder (environment only)",
    )
    database_connections: int = _setting(
        16, "Maximum number of connections to the PostgreSQL database", lambda v: v >= 2
    )
    servers: str = _setting(
        "one",
        "one, or many where several servers share a PostgreSQL database and all files",
        lambda v: v in ("one", "many"),
    )
    blobs: str = _setting(
        "",
        "Where the encrypted files lie: s3://bucket/prefix in an object store; by default in the"
        " data folder",
        lambda v: not v or _is_bucket(v),
    )
    blobs_also: str = _setting(
        "",
        "Another place in which encrypted files may still lie, while they move from it to"
        " MEDSEC_BLOBS: s3://bucket/prefix, or folder for the data folder",
        lambda v: v in ("", FOLDER) or _is_bucket(v),
    )
    s3_endpoint: str = _setting(
        "",
        "Address of the object store, https://...; leave empty for that of AWS",
        lambda v: not v or (_is_origin(v) and _is_encrypted(v)),
    )
    s3_region: str = _setting("us-east-1", "Region of the object store", bool)
    s3_ca_file: Path | None = _setting(
        None, "CA certificates for the object store, by default those of the HTTP client"
    )
    key_file: Path | None = _setting(
        None,
        "Root keys file, mode 0600, outside the data folder; by default ~/.config/medsec/root.key",
    )
    key: Secret | None = _setting(None, "Root keys, instead of a file (environment only)")
    key_passphrase: Secret | None = _setting(
        None, "Passphrase from which the root key is derived, instead of a file (environment only)"
    )
    checkpoint_dir: Path | None = _setting(
        None, "Folder outside the data folder for signed audit checkpoints"
    )
    backup_dir: Path | None = _setting(None, "Folder outside the data folder for backups")
    backups: str = _setting(
        "",
        "s3://bucket/prefix in an object store for backups, instead of MEDSEC_BACKUP_DIR",
        lambda v: not v or _is_bucket(v),
    )
    backup_lock_days: int = _setting(
        0,
        "Days for which nobody can delete a backup in a bucket (S3 Object Lock, compliance mode);"
        " 0 means no lock",
        lambda v: 0 <= v <= 3650,
        "d",
    )
    backups_kept: int = _setting(14, "Number of backups to keep", _positive)
    backup_hours: float = _setting(
        24.0, "Interval of automatic backups; 0 turns them off", lambda v: v >= 0, "h"
    )
    checkpoint_hours: float = _setting(
        24.0,
        "The server writes a checkpoint this often, and one at each start; 0 leaves it at those",
        lambda v: v >= 0,
        "h",
    )
    backup_alarm_hours: float = _setting(
        50.0, "Age of the last successful backup at which the health page warns", _positive, "h"
    )
    batch_workers: int = _setting(
        0, "Number of worker processes for a batch; 0 means one per processor", lambda v: v >= 0
    )
    batch_scheduler: str = _setting("", "Address (tls://host:port) of a Dask scheduler for batches")
    batch_ca: Path | None = _setting(None, "CA certificate of the Dask scheduler, PEM")
    batch_cert: Path | None = _setting(None, "Client certificate for the Dask scheduler, PEM")
    batch_key: Path | None = _setting(None, "Private key of the client certificate, PEM")
    metrics_token: Secret | None = _setting(
        None, "Bearer token of a monitoring system for /api/metrics/ and health"
    )
    scrub_hours: float = _setting(
        24.0,
        "Interval of the integrity check of all stored files; 0 turns it off",
        lambda v: v >= 0,
        "h",
    )
    scrub_mb_per_second: float = _setting(
        10.0, "Maximum read rate of the integrity check", _positive, "MB/s"
    )
    profile: str = _setting("general", "Default specialty profile of uploads")
    confidence: float = _setting(
        0.25, "Boxes with at least this confidence are sealed", _unit_interval
    )
    proposal_confidence: float = _setting(
        0.10,
        "Boxes between this confidence and MEDSEC_CONFIDENCE are proposals and need review",
        _unit_interval,
    )
    iou: float = _setting(
        0.45, "Boxes of one class that overlap more than this are merged (NMS IoU)", _unit_interval
    )
    padding: float = _setting(
        0.04, "Padding of a box, as a share of its longer side", _unit_interval
    )
    padding_min_px: int = _setting(4, "Minimum padding of a box", lambda v: v >= 0, "px")
    device: str = _setting(
        "auto",
        "Device that runs the networks: auto, cpu or cuda",
        lambda v: v in ("auto", "cpu", "cuda"),
    )
    threads: int = _setting(0, "CPU threads for networks; 0 means all", lambda v: v >= 0)
    picture_limit_mb: int = _setting(20, "Maximum size of a picture file", _positive, "MB")
    dicom_limit_mb: int = _setting(256, "Maximum size of a DICOM file", _positive, "MB")
    model_limit_mb: int = _setting(100, "Maximum size of an uploaded network", _positive, "MB")
    max_side_px: int = _setting(32_768, "Maximum side length of an image", _positive, "px")
    max_decoded_mb: int = _setting(
        1024, "Maximum decoded size of an image, all frames together", _positive, "MB"
    )
    memory_mb: int = _setting(
        0,
        "Memory for the server with all of its processes; 0 means three quarters of what this"
        " machine or container has",
        lambda v: v >= 0,
        "MB",
    )
    server_memory_mb: int = _setting(
        1750,
        "Of it, what files that are being read, sealed or restored may take in the server's own"
        " process",
        lambda v: v >= 64,
        "MB",
    )
    restore_minutes: float = _setting(
        5.0, "Time until a restoration closes", lambda v: 0 < v <= 60, "min"
    )
    study_restore_minutes: float = _setting(
        30.0, "Time until a restoration of a series or study closes", lambda v: 0 < v <= 120, "min"
    )
    restore_memory_mb: int = _setting(
        2048, "Memory limit for all images that are open or were just sent", _positive, "MB"
    )
    auto_seal: bool = _setting(
        True, "Offer uploaders to seal images without doubt at once, without a person's look"
    )
    release_sample: float = _setting(
        0.05,
        "Share of the images that earned their release by themselves which a person sees all the"
        " same, drawn at random",
        lambda v: 0.01 <= v <= 1.0,
    )
    release_withdraw: bool = _setting(
        False,
        "After a miss, withdraw every image that was released without a look since the last clean"
        " one",
    )
    reason_required: bool = _setting(True, "Whether a restoration requires a reason")
    session_idle_minutes: float = _setting(
        15.0, "Idle time after which a session ends", _positive, "min"
    )
    session_hours: float = _setting(8.0, "Maximum duration of a session", _positive, "h")
    bcrypt_cost: int = _setting(12, "bcrypt cost of password hashes", lambda v: 4 <= v <= 18)
    password_min_length: int = _setting(
        15,
        "Minimum password length (NIST SP 800-63B-4: 15, or 8 with a second factor for all)",
        lambda v: v >= 8,
    )
    four_eyes: bool = _setting(
        False,
        "A second administrator confirms what gives an account of a doctor or administrator away",
    )
    second_factor: str = _setting(
        "",
        "Roles that require a second factor, comma-separated; optional for all others",
        lambda v: _role_names(v) <= set(ACCOUNT_ROLES),
    )
    single_sign_on: Path | None = _setting(
        None, "TOML file, mode 0600, with Streamlit's [auth] section for OpenID Connect"
    )
    web_origin: str = _setting(
        "",
        "Address that people type, such as https://medsec.hospital.example; passkeys need it",
        lambda v: not v or _is_secure_origin(v),
    )
    step_up_minutes: float = _setting(
        0.0,
        "Restoring requires a password or code entered within this time; 0 turns this off",
        lambda v: v >= 0,
        "min",
    )
    care_relation: bool = _setting(
        False, "Doctors see only patients they treat; all others need emergency access"
    )
    requests_per_minute: int = _setting(3000, "API requests per minute and account", _positive)
    anonymous_requests_per_minute: int = _setting(
        60, "API requests per minute and IP address without a session", _positive
    )
    request_patience_seconds: float = _setting(
        20.0,
        "How long the head of a request may take, and its body before its rate counts",
        _positive,
        "s",
    )
    batch_limit_mb: int = _setting(512, "Memory limit for all waiting batches", _positive, "MB")
    cors_origins: str = _setting(
        "",
        "Web origins that can call the API from a browser, comma-separated",
        lambda v: all(_is_origin(o) for o in v.replace(",", " ").split()),
    )
    keep_missed: bool = _setting(
        False,
        "Keep images in which something was missed, encrypted, for training; requires consent or"
        " another legal basis",
    )
    training_days: int = _setting(365, "How long images for training are kept", _positive, "d")
    smtp_host: str = _setting(
        "", "Mail server for notices to administrators; leave empty to send none"
    )
    smtp_port: int = _setting(587, "Port of the mail server", lambda v: 0 < v < 65536)
    smtp_security: str = _setting(
        "starttls",
        "Encryption of mail: starttls, tls, or none (only for a server on this machine)",
        lambda v: v in ("starttls", "tls", "none"),
    )
    smtp_user: str = _setting(
        "", "User name for the mail server; leave empty to send without signing in"
    )
    smtp_password: Secret | None = _setting(None, "Password for the mail server (environment only)")
    smtp_ca_file: Path | None = _setting(
        None, "CA certificates for the mail server, by default those of the system"
    )
    mail_from: str = _setting("", "Sender address of notices")
    mail_to: str = _setting("", "Recipient addresses of notices, comma-separated")
    site: str = _setting(
        "MedSec",
        "Name of this installation in messages to other systems",
        lambda v: bool(v.strip()),
    )
    syslog_host: str = _setting(
        "", "Audit repository that gets the audit log as DICOM messages; leave empty to send none"
    )
    syslog_port: int = _setting(6514, "Port of the audit repository", lambda v: 0 < v < 65536)
    syslog_ca_file: Path | None = _setting(
        None, "CA certificates for the audit repository, by default those of the system"
    )
    syslog_certificate: Path | None = _setting(
        None, "This installation's certificate for the audit repository, PEM with its key"
    )
    write_wait_seconds: float = _setting(
        10.0, "Maximum time a write to the catalog waits", _positive, "s"
    )
    host: str = _setting("127.0.0.1", "Address that the server listens on")
    tls: bool = _setting(
        False, "Serve over TLS; without your own certificate, one is created next to the root key"
    )
    tls_certificate: Path | None = _setting(None, "TLS certificate with its chain, PEM")
    tls_key: Path | None = _setting(None, "Private key of the TLS certificate, PEM")
    port: int = _setting(8501, "Port that the server listens on", lambda v: 0 <= v < 65536)
    dicom_port: int = _setting(
        0, "Port that receives DICOM from the network; 0 turns it off", lambda v: 0 <= v < 65536
    )
    dicom_host: str = _setting("127.0.0.1", "Address on which DICOM is received")
    dicom_title: str = _setting(
        "MEDSEC",
        "AE title of this system in the network",
        lambda v: 0 < len(v.strip()) == len(v) <= 16 and v.isascii() and "\\" not in v,
    )
    dicom_ca: Path | None = _setting(
        None,
        "CA certificates of the network's systems, PEM; with it, DICOM is received over TLS and"
        " needs a client certificate",
    )
    dicom_memory_mb: int = _setting(
        1024, "Memory limit for all instances that are being received", _positive, "MB"
    )
    recipient_certificates: str = _setting(
        "",
        "Certificates (PEM, RSA, one behind the other) whose holders can read the original"
        " attributes in masked DICOM files; leave empty to encrypt them for nobody",
    )
    demo: bool = _setting(False, "Show that this is a demo with fictitious patients")

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
                "MEDSEC_PROPOSAL_CONFIDENCE must not be above MEDSEC_CONFIDENCE. Lower the first or"
                " raise the second."
            )
        if self.servers == "many" and self.database is None:
            raise SettingsError(
                "MEDSEC_SERVERS=many needs a catalog on PostgreSQL: set MEDSEC_DATABASE."
            )
        places = (self.blobs, self.blobs_also)
        if self.backups and (self.backup_dir or any(within(self.backups, p) for p in places)):
            raise SettingsError(
                "MEDSEC_BACKUPS must be alone, without MEDSEC_BACKUP_DIR, and apart from"
                " MEDSEC_BLOBS and MEDSEC_BLOBS_ALSO."
            )
        if self.blobs_also and within(self.blobs_also, self.blobs or FOLDER):
            raise SettingsError(
                "MEDSEC_BLOBS_ALSO must be another place than MEDSEC_BLOBS, and apart from it."
            )
        if self.backup_lock_days and not self.backups:
            raise SettingsError(
                "MEDSEC_BACKUP_LOCK_DAYS needs a bucket with object lock: set MEDSEC_BACKUPS."
            )
        if self.smtp_host:
            for address in (self.mail_from, *(self.mail_recipients or ("",))):
                if not _ADDRESS.fullmatch(address):
                    raise SettingsError(
                        "MEDSEC_SMTP_HOST requires valid addresses in MEDSEC_MAIL_FROM and"
                        " MEDSEC_MAIL_TO."
                    )
            if self.smtp_security == "none" and self.smtp_host not in _THIS_MACHINE:
                raise SettingsError(
                    "MEDSEC_SMTP_SECURITY=none is allowed only for a mail server on this machine."
                    " Use starttls or tls."
                )

    @property
    def keeps_backups(self) -> bool:
        """Is there a place for backups?"""
        return bool(self.backups or self.backup_dir)

    @property
    def mail_recipients(self) -> tuple[str, ...]:
        """Recipients of notices."""
        return tuple(a.strip() for a in self.mail_to.split(",") if a.strip())

    @property
    def second_factor_roles(self) -> frozenset[Role]:
        """Roles that require a second factor."""
        return frozenset(map(Role, _role_names(self.second_factor)))

    def changed(self, name: str, raw: str) -> Settings:
        """A copy with one setting changed, parsed from text like an environment variable.

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
            override: Values with precedence over all three, for command-line flags.

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
        raise SettingsError(f"Cannot read the settings file {path}: {err}.") from err
    values = {}
    for name, raw in table.items():
        if name not in known:
            raise SettingsError(f"The settings file {path} has an unknown setting {name!r}.")
        if "Secret" in known[name].type:
            raise SettingsError(
                f"The setting {name!r} is a secret. Remove it from the file and set it in the"
                " environment."
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
