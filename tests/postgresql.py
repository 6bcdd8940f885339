"""A real PostgreSQL server for tests, and databases of its own for each of them."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import psycopg

from engine.host import Host
from engine.store.database import Database
from engine.store.postgresql import PostgresDatabase, migrate
from engine.store.postgresql_schema import role_script

OWNER, SERVER = "medsec_owner", "medsec_server"
_TEMPLATE = "medsec_template"
#: Tables, their rights, triggers and whether these are on.
_SHAPE = """
    SELECT md5(string_agg(concat_ws(' ', c.relname, c.relacl, c.relnatts, t.tgname, t.tgenabled),
        ',' ORDER BY c.relname, t.tgname)), (SELECT count(*) FROM medsec.migrations)
    FROM pg_class c LEFT JOIN pg_trigger t ON t.tgrelid = c.oid
    WHERE c.relnamespace = 'medsec'::regnamespace
"""


def programs() -> Path | None:
    """The folder of ``initdb``, which Debian keeps off the path; None where it is not installed."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    there = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: p.parts[-3])
    return there[-1].parent if there else None


def name_of(url: str) -> str:
    """The database that a URL of :class:`Cluster` names."""
    return url.partition("@/")[2].partition("?")[0]


def forge(database: Database, sql: str) -> None:
    """What somebody with the file, or with all rights on the server, could do."""
    if isinstance(database, PostgresDatabase):
        with psycopg.connect(**{**database._options, "user": "postgres"}) as owner:
            owner.execute("ALTER TABLE audit DISABLE TRIGGER ALL")
            owner.execute(sql.encode())
            owner.execute("ALTER TABLE audit ENABLE TRIGGER ALL")
    else:
        with database.write() as tx:
            tx.run("DROP TRIGGER audit_no_update ON audit")
            tx.run("DROP TRIGGER audit_no_delete ON audit")
            tx.run(sql)


class Cluster:
    """One server with a socket and a port on this machine, whose files go with it.

    Args:
        durable: Write to the disk as in service; for what kills the server.
        address: Where it listens for others; who comes from there must speak TLS.
    """

    def __init__(self, durable: bool = False, address: str = "127.0.0.1") -> None:
        found = programs()
        assert found is not None
        self._programs = found
        # Not within a test's folder: names of sockets have at most 107 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="medsec-pg-"))
        self._numbers = itertools.count(1)
        self._free: list[str] = []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        if os.geteuid() == 0:  # the server refuses to run as root
            account = pwd.getpwnam("postgres")
            os.chown(self.folder, account.pw_uid, account.pw_gid)
        self.folder.chmod(0o755)
        (self.folder / "options").write_text(
            f"-k {self.folder} -h {address} -p {self.port} -c fsync={'on' if durable else 'off'}"
            " -c shared_buffers=64MB -c max_connections=200 -c log_min_messages=fatal"
        )
        self.run("initdb", "-D", str(self.data), "-A", "trust", "-U", "postgres", "-E", "UTF8",
                 "--locale=C.UTF-8", "--no-sync")  # fmt: skip
        if address != "127.0.0.1":
            with (self.data / "pg_hba.conf").open("a") as rights:
                rights.write(f"hostssl all all {address}/24 trust\n")
        self.start()
        self._make_template()

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def run(self, program: str, *words: str) -> None:
        call: Sequence[str] = [str(self._programs / program), *words]
        if os.geteuid() == 0:
            call = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *call]
        # Files, not pipes: the server that pg_ctl leaves behind would hold them open.
        with tempfile.TemporaryFile() as said:
            done = subprocess.run(call, stdout=said, stderr=subprocess.STDOUT, cwd="/")
            said.seek(0)
            assert done.returncode == 0, said.read().decode(errors="replace")

    def start(self) -> None:
        options = (self.folder / "options").read_text()
        self.run("pg_ctl", "-D", str(self.data), "-o", options, "-l", str(self.folder / "log"),
                 "-w", "-t", "60", "start")  # fmt: skip

    def stop(self, mode: str = "immediate") -> None:
        self.run("pg_ctl", "-D", str(self.data), "-m", mode, "-w", "stop")

    def kill(self) -> None:
        """Let all its processes end at once, as when the machine's power goes."""
        postmaster = int((self.data / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        for process in (postmaster, *map(int, children)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        pause = threading.Event()
        # Until all are gone: the next start refuses while the number of this one is in use.
        while any(Path(f"/proc/{process}").exists() for process in (postmaster, *children)):
            pause.wait(0.02)

    def close(self) -> None:
        if (self.data / "postmaster.pid").exists():
            self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextlib.contextmanager
    def tls(self, certificate: bytes, key: bytes) -> Iterator[None]:
        """Speak TLS, too, on the port.

        Args:
            certificate: Of this server, PEM, as the key.
        """
        name = f"server{next(self._numbers)}"
        for ending, content in (("crt", certificate), ("key", key)):
            file = self.folder / f"{name}.{ending}"
            file.touch(mode=0o600)
            file.write_bytes(content)
            if os.geteuid() == 0:
                os.chown(file, self.folder.stat().st_uid, -1)
        with self.superuser() as admin:
            admin.execute(f"ALTER SYSTEM SET ssl_cert_file = '{self.folder}/{name}.crt'".encode())
            admin.execute(f"ALTER SYSTEM SET ssl_key_file = '{self.folder}/{name}.key'".encode())
            admin.execute("ALTER SYSTEM SET ssl = on")
            admin.execute("SELECT pg_reload_conf()")
        pause = threading.Event()
        while name not in self.asked("SHOW ssl_cert_file"):
            pause.wait(0.02)
        assert self.asked("SHOW ssl") == "on"
        try:
            yield
        finally:
            with self.superuser() as admin:
                admin.execute("ALTER SYSTEM RESET ALL")
                admin.execute("SELECT pg_reload_conf()")

    def asked(self, sql: str) -> str:
        """What a connection that is made now is told."""
        with self.superuser() as admin:
            row = admin.execute(sql.encode()).fetchone()
        assert row is not None
        return str(row[0])

    def url(self, database: str, role: str = SERVER) -> str:
        return f"postgresql://{role}@/{database}?host={self.folder}&port={self.port}"

    def superuser(self, database: str = "postgres") -> psycopg.Connection:
        return psycopg.connect(self.url(database, "postgres"), autocommit=True)

    def script(self, text: str) -> None:
        """Run what an administrator would give to ``psql``."""
        psql = shutil.which("psql") or str(self._programs / "psql")
        subprocess.run(
            [psql, "-q", "-v", "ON_ERROR_STOP=1", self.url("postgres", "postgres")],
            input=text, text=True, check=True, capture_output=True,
        )  # fmt: skip

    def _make_template(self) -> None:
        self.script(role_script(OWNER, SERVER, _TEMPLATE))
        migrate(self.url(_TEMPLATE, OWNER), SERVER, Host(self.folder), 5)
        with self.superuser(_TEMPLATE) as admin:
            self._shape = admin.execute(_SHAPE).fetchone()

    def new(self) -> str:
        """The URL, for the server's role, of a database with tables and no rows."""
        if self._free:
            return self.url(self._free.pop())
        name = f"test_{next(self._numbers)}"
        with self.superuser() as admin:
            admin.execute(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE} OWNER {OWNER}".encode())
            admin.execute(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC".encode())
            admin.execute(f"GRANT CONNECT ON DATABASE {name} TO {SERVER}".encode())
        with self.superuser(name) as admin:  # each database is a catalog of its own
            admin.execute("UPDATE medsec.writer SET catalog_id = md5(random()::text)")
        return self.url(name)

    def take_back(self, url: str) -> None:
        """Empty a database for the next test, which takes a tenth of the time of a new one.

        One whose tables, triggers or rights a test has changed is left alone.
        """
        name = name_of(url)
        with self.superuser(name) as admin:
            if admin.execute("SELECT to_regclass('medsec.migrations')").fetchone() == (None,):
                return
            if admin.execute(_SHAPE).fetchone() != self._shape:
                return
            tables = admin.execute(
                "SELECT relname::text FROM pg_class WHERE relnamespace = 'medsec'::regnamespace"
                " AND relkind = 'r' AND relname NOT IN ('migrations', 'writer')"
            ).fetchall()
            asked = " UNION ALL ".join(
                f"SELECT '{t}' WHERE EXISTS (SELECT 1 FROM medsec.{t})"  # noqa: S608
                for (t,) in tables
            )
            admin.execute("SET session_replication_role = replica")  # no triggers
            admin.execute("SET lock_timeout = '5s'")  # a transaction was left open
            for (table,) in admin.execute(asked.encode()).fetchall():
                admin.execute(f"DELETE FROM medsec.{table}".encode())  # noqa: S608
        self._free.append(name)
