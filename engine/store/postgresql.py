"""The catalog on a PostgreSQL server.

Threads share a pool of connections. Every change begins by locking one row, the same one in all
processes: so changes follow one another, each sees what the one before it did, and the audit log's
chain has one end. The lock is let go before the change is on the server's disk, and the caller goes
on only when it is: several changes wait for one write of the disk together. Who reads meanwhile may
see a change that a crash of the database server takes back. Its caller has not been answered then,
and who answers, signs, sends or deletes on the word of it settles it first.

A MedSec server that is alone holds the database for its life by a lock of a connection of its own.
Should that be lost, and another server take over, the row above names the other one and this one
refuses to write. Several servers hold that lock together; what else there is to that is in
:mod:`engine.store.servers`.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn

import psycopg
import psycopg_pool
from psycopg import conninfo, pq
from psycopg.abc import Buffer
from psycopg.adapt import AdaptersMap, Loader
from psycopg.rows import dict_row, tuple_row
from psycopg.types.string import StrDumper

from engine.errors import (
    ChangeUnknown,
    FilesElsewhere,
    InputError,
    SettingsError,
    StorageBusy,
    StorageError,
    TurnLost,
)
from engine.fairness import gives_way
from engine.host import Folder, Host, write_durably
from engine.store import postgresql_schema as schema
from engine.store.database import CATALOG_ID, Cursor, Database, Row, ServerState
from engine.store.embedded import EmbeddedDatabase, discard_copy, fresh_file
from engine.store.servers import BEAT_SECONDS, MANY, Expelled, Servers
from engine.store.turns import Alone, Turns
from engine.store.two_places import TwoPlaces

log = logging.getLogger("medsec")

Connection = psycopg.Connection[Row]

_IDLE_CONNECTIONS: Final = 2
_ROWS_AT_ONCE: Final = 5_000
#: The lock that one server holds for its life, among the advisory locks of this database.
_LEASE: Final = (0x4D656453, 1)
#: The lock of the server that leads, and those of what one thread of all servers does at a time.
_LEADER: Final = (0x4D656453, 2)
_ALONE: Final = {"backup": 16, "list of erasures": 17, "claim of the files": 18}
_AGAIN_SECONDS: Final = 0.1
_RECONNECT_SECONDS: Final = 1.0
_TRIES: Final = 10
_TRY_SECONDS: Final = 0.2
_SAFE_MODES: Final = ("verify-ca", "verify-full")
_BROKEN: Final = (psycopg.OperationalError, psycopg.InterfaceError)
#: Classes of errors: the connection failed, the server stops or starts, a transaction was idle.
_GONE: Final = ("08", "57P", "25P03")
_ANOTHER: Final = (
    "Another MedSec process is using this database. Stop it first, or use its pages. Only one can"
    " use it at a time, but for servers with MEDSEC_SERVERS=many."
)
_ONLY_ONE: Final = (
    "A MedSec process that must be alone is using this database: a command, or a server without"
    " MEDSEC_SERVERS=many. Stop it first."
)
_LOST: Final = "The connection to the database was lost. Try again in a moment."
_NOT_CONNECTED: Final = (
    "Cannot connect to MEDSEC_DATABASE. Check address, database, role, password and certificate;"
    " the database server's log says why."
)
_NOT_TRUSTED: Final = (
    "The database server's certificate was refused, and nothing was sent to it: it is not signed by"
    " the CA in sslrootcert, has expired, or is for another host name than MEDSEC_DATABASE names."
)
#: What libpq and OpenSSL say of a certificate. Should that change, the general message is given.
_CERTIFICATE: Final = (
    "certificate verify failed", "signature failure", "does not match host name"
)  # fmt: skip
#: A commit that is waited for, and with it all before it.
_FLUSH: Final = b"SELECT pg_logical_emit_message(true, 'medsec', '')"
#: A dead peer is noticed after seconds, also behind a network that was cut.
_DEFAULTS: Final[dict[str, Any]] = {
    "application_name": "medsec",
    "target_session_attrs": "read-write",
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}
_SERVER_SETTINGS: Final = {
    "search_path": f"{schema.SCHEMA},pg_temp",
    "TimeZone": "UTC",
    "DateStyle": "ISO",
    "default_transaction_isolation": "read\\ committed",
    "idle_in_transaction_session_timeout": "10min",
    # A machine whose network is cut holds up others for as long: the database must notice.
    "tcp_keepalives_idle": "2",
    "tcp_keepalives_interval": "1",
    "tcp_keepalives_count": "3",
    "client_connection_check_interval": "1s",
    "jit": "off",
    # A search has a condition for every filter; one plan for all of them would use no index.
    "plan_cache_mode": "force_custom_plan",
}


class _NumberLoader(Loader):
    """Sums of whole numbers come as NUMERIC: whole numbers here, as in DuckDB."""

    def load(self, data: Buffer) -> int | float:
        text = bytes(data).decode()
        return int(text) if text.lstrip("-").isdigit() else float(text)


_ADAPTERS: Final = AdaptersMap(psycopg.adapters)
# Texts are texts: left open, one value in two places can be of two types, which is refused.
_ADAPTERS.register_dumper(str, StrDumper)
_ADAPTERS.register_loader("numeric", _NumberLoader)


class _Adapted:
    """What psycopg takes the conversions from."""

    adapters = _ADAPTERS
    connection = None


_CONNECTION: Final[dict[str, Any]] = {
    "autocommit": True,
    "row_factory": dict_row,
    "cursor_factory": psycopg.RawCursor,
    "context": _Adapted(),
}


class PostgresCursor(Cursor):
    """Runs statements on the connection of a transaction, or on any of the pool.

    Args:
        borrow: Gives a connection for one statement.
        again: What to do when the connection is lost, before the statement is tried once more;
            None within a transaction, which is lost as a whole.
    """

    def __init__(
        self,
        borrow: Callable[[], AbstractContextManager[Connection]],
        again: Callable[[], None] | None = None,
    ) -> None:
        self._borrow = borrow
        self._again = again

    def run(self, sql: str, *values: Any) -> None:
        """Execute a statement; values stand for ``$1``, ``$2``, ..."""
        with _translated(), self._borrow() as connection:
            connection.execute(schema.translated(sql).encode(), values or None)

    def run_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Execute a statement once per row; no rows are fine."""
        if rows:
            with _translated(), self._borrow() as connection:
                connection.cursor().executemany(schema.translated(sql).encode(), rows)

    def all(self, sql: str, *values: Any) -> list[Row]:
        """Every row of a query; asked twice if the connection was lost between two statements."""
        try:
            with self._borrow() as connection:
                return _rows(connection, sql, values)
        except psycopg.Error as err:
            if self._again is None or not _is_lost(err):
                _translate(err)
        except UnicodeEncodeError as err:
            _refuse_text(err)
        self._again()
        with _translated(), self._borrow() as connection:
            return _rows(connection, sql, values)

    def announce(self) -> None:
        """Within a change: others see it when they see the change."""
        self.run("UPDATE writer SET generation = generation + 1")

    @staticmethod
    def bytes_as_text(column: str) -> str:
        """As DuckDB shows bytes."""
        return f"bytes_as_text({column})"


class PostgresDatabase(Database):
    """One open catalog on a PostgreSQL server."""

    def __init__(
        self,
        url: str,
        folder: Path,
        host: Host,
        wait_seconds: float,
        connections: int,
        servers: Servers | None = None,
    ) -> None:
        self._folder = folder
        self._host = host
        self._wait = wait_seconds
        self._turns = Turns()
        self._copying = threading.Lock()  # all copies have one name
        self._local = threading.local()
        self._options = _options(url, wait_seconds)
        self._servers = servers
        if servers is not None:
            self.server_id = servers.server_id
            self._options["application_name"] = _application(servers.server_id)
        self._alone = Alone()
        self._lease = _Lease(self._options, many=servers is not None)
        #: The lease's connection that has the leader's lock, too.
        self._leading: Connection | None = None
        self._changed: Callable[[], None] | None = None
        self._closing = threading.Event()
        self._beating = threading.Thread(target=self._beat_forever, name="beat", daemon=True)
        self._recovering = threading.Lock()
        self._pool: psycopg_pool.ConnectionPool[Connection] = psycopg_pool.ConnectionPool(
            kwargs={**self._options, **_CONNECTION},
            min_size=min(_IDLE_CONNECTIONS, connections),
            max_size=connections,
            timeout=wait_seconds,
            # By itself it tries again after 1, 2, 4, 8 ... seconds, while everybody waits; after
            # it has given up, the next who needs a connection lets it try at once.
            reconnect_timeout=_RECONNECT_SECONDS,
            open=False,
            name="medsec",
        )

    @classmethod
    def open(
        cls,
        url: str,
        folder: Path,
        host: Host,
        wait_seconds: float,
        connections: int,
        servers: Servers | None = None,
    ) -> PostgresDatabase:
        """Open a catalog whose tables are there, and hold it against other servers.

        Args:
            folder: The data folder, with the files.
            connections: How many may be open at a time, beside the one that holds the catalog.
            servers: Makes this one of several; by default it is alone.

        Raises:
            SettingsError: The URL is none, or trusts the network with clear text.
            StorageBusy: Another MedSec holds the catalog, or the database cannot be reached.
            StorageError: Tables or rights are missing, the role has too many, or the catalog
                belongs to another data folder.
        """
        database = cls(url, folder, host, wait_seconds, connections, servers)
        try:
            with database._lease.held() as tx:
                schema.check_server(database._lease.version, tx)
                schema.check_tables(tx)
                schema.check_rights(tx)
                if servers is None:
                    database._lease.take_over(tx, host.token_of(16))
                else:
                    servers.join(tx)
            database._pool.open()
            database._bind()
            with contextlib.suppress(StorageBusy), database.alone("backup"):
                discard_copy(folder)  # left by a crash: no other server makes one now
            if servers is not None:
                database._beating.start()
        except BaseException:
            database.close()
            raise
        return database

    def close(self) -> None:
        """Close all connections; another server may take the catalog then."""
        self._closing.set()
        if self._beating.is_alive():
            self._beating.join()
        with self._turns.take(None):
            if self._servers is not None:
                with contextlib.suppress(StorageError):  # then others take it for dead
                    self._servers.leave(self._lease.cursor())
            self._pool.close(timeout=5.0)
            self._lease.close()

    @property
    def fresh(self) -> bool:
        """Was nothing kept in it yet?"""
        return not self.read().count("SELECT count(*) FROM root_keys")

    def read(self) -> Cursor:
        """A cursor that takes a connection for each statement, or this thread's transaction."""
        self._refuse_stale()
        cursor: Cursor | None = getattr(self._local, "cursor", None)
        if cursor is None:
            cursor = PostgresCursor(self._pool.connection, self._recover)
        return cursor

    def held_bytes(self) -> int:
        """None here: the database server has it."""
        return 0

    def stored_bytes(self) -> int:
        """Size of the whole database."""
        return self.read().count("SELECT pg_database_size(current_database())")

    @contextlib.contextmanager
    def write(self) -> Iterator[Cursor]:
        """One atomic transaction, exclusive among all processes; cannot be nested.

        Raises:
            StorageBusy: The turn did not come in time, or the database could not be reached.
            StorageError: The database refused, or another server took over; nothing was changed.
            ChangeUnknown: The connection was lost at the end.
        """
        self._refuse_stale()
        with contextlib.ExitStack() as stack:
            with self._turns.take(self._wait, gives_way()):
                connection = stack.enter_context(self._begun())
                cursor = PostgresCursor(lambda: contextlib.nullcontext(connection))
                self._local.cursor = cursor
                try:
                    yield cursor
                    _commit(connection)
                except BaseException:
                    with contextlib.suppress(psycopg.Error):
                        connection.execute(b"ROLLBACK")  # before the next one's turn
                    raise
                finally:
                    self._local.cursor = None
            # Others go on meanwhile, and are saved by the same write of the disk.
            _on_disk(connection)

    def settle(self) -> None:
        """Wait for the server's disk. Never tried twice: a crash may have taken back what was read.

        Raises:
            StorageBusy: The database cannot be reached.
        """
        self._refuse_stale()
        with _translated(), self._pool.connection() as connection:
            connection.execute(_FLUSH)

    def servers(self) -> list[ServerState]:
        """All that have a row, the oldest first."""
        return [] if self._servers is None else self._servers.all(self.read())

    @property
    def leads(self) -> bool:
        """Has this server the leader's lock, as far as it knows?"""
        if self._servers is None:
            return True
        mine = self._leading is not None and self._leading is self._lease.connection
        return mine and not self._servers.stale and not self._servers.expelled

    @contextlib.contextmanager
    def as_leader(self) -> Iterator[None]:
        """Changes of this thread are refused where the writers' row names another leader."""
        self._local.leading = self._servers is not None
        try:
            yield
        finally:
            self._local.leading = False

    @contextlib.contextmanager
    def alone(self, what: str, wait_seconds: float = 0.0) -> Iterator[Callable[[], None]]:
        """Among the threads of all servers, by a lock of a connection of its own."""
        with self._alone.doing(what, wait_seconds) as held:
            if self._servers is None:
                yield held
                return
            with _translated(), psycopg.connect(**self._options, **_CONNECTION) as connection:
                lock = (_LEASE[0], _ALONE[what])
                _refuse_clear_text(connection)
                for _ in range(1 + round(wait_seconds / _AGAIN_SECONDS)):
                    if _locked(connection, lock):
                        break
                    self._closing.wait(_AGAIN_SECONDS if wait_seconds else 0.0)
                else:
                    raise StorageBusy(f"The {what} is at work on another server. Wait until it is"
                                      " done.")  # fmt: skip
                yield partial(_refuse_lost, connection, what)

    def watch(self, changed: Callable[[], None]) -> None:
        """What to do when settings were changed elsewhere. From here on this server may lead."""
        self._changed = changed

    def _refuse_stale(self) -> None:
        if self._servers is not None and not getattr(self._local, "beating", False):
            self._servers.refuse_stale()

    def _beat_forever(self) -> None:
        self._local.beating = True
        said = ""
        while not self._closing.wait(BEAT_SECONDS):
            try:
                self._beat()
                said = ""
            except (Expelled, FilesElsewhere) as err:  # nothing that this server does can be right
                log.error("%s", err.message)
                if self._servers is not None:
                    self._servers.expelled = True
                self.when_expelled()
                return
            except Exception as err:  # noqa: BLE001 - without a next round, this server stops
                if self._servers is not None and self._servers.stale:
                    self._let_lead()
                code = getattr(err, "code", type(err).__name__)
                if code != said:
                    log.warning("no beat: %s", code)
                said = code

    def _beat(self) -> None:
        """Say that this server is there; take in what others changed; lead, if nobody does."""
        assert self._servers is not None
        began = self._host.ticks_ms()
        with self._recovering:
            self._lease.renew()
        tx, connection = self._lease.cursor(), self._lease.connection
        newest = self._servers.beat(tx)
        for server_id in self._servers.silent(tx, began):
            # Its connections first: in one of them may be a change that others wait for.
            tx.all(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE"
                " application_name = $1 AND usename = current_user",
                _application(server_id),
            )
            with self.write() as change:
                self._servers.bury(change, server_id)
        if newest != self._servers.generation and self._changed is not None:
            self._changed()
            self._servers.generation = newest
        self._servers.beaten(began)
        if self._changed is not None and self._leading is not connection:
            self._leading = None
            assert connection is not None
            if _locked(connection, _LEADER):
                with self.write() as change:
                    self._servers.lead(change)
                self._leading = connection

    def _let_lead(self) -> None:
        """Another server may lead: this one cannot take in what was changed."""
        connection, self._leading = self._leading, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                connection.execute(b"SELECT pg_advisory_unlock(%d, %d)" % _LEADER)

    @contextlib.contextmanager
    def _begun(self) -> Iterator[Connection]:
        """A connection within a transaction that has the writers' row."""
        with contextlib.ExitStack() as stack:
            with _translated():
                try:
                    connection = stack.enter_context(self._borrowed())
                    self._begin(connection)
                except psycopg.Error as err:
                    if not _is_lost(err):
                        raise
                    self._recover()  # nothing was done yet
                    connection = stack.enter_context(self._borrowed())
                    self._begin(connection)
            yield connection

    @contextlib.contextmanager
    def _borrowed(self) -> Iterator[Connection]:
        connection = self._pool.getconn()
        try:
            yield connection
        finally:
            with contextlib.suppress(psycopg.Error):
                if connection.info.transaction_status is not pq.TransactionStatus.IDLE:
                    connection.execute(b"ROLLBACK")
            self._pool.putconn(connection)

    def _begin(self, connection: Connection) -> None:
        # One of several servers that says nothing amid a change must not hold up the others.
        patience = b""
        if self._servers is not None:
            patience = (
                b" SET LOCAL idle_in_transaction_session_timeout = %d;" % self._servers.patience_ms
            )
        cursor = connection.execute(
            b"BEGIN; SET LOCAL synchronous_commit = off;" + patience
            + b" SELECT * FROM writer FOR UPDATE"
        )  # fmt: skip
        while cursor.nextset():
            pass
        row = cursor.fetchall()[0]
        if self._servers is None:
            self._lease.check(str(row["server"]))
            return
        # In a statement of its own: it sees what the change before this one did.
        there = _rows(connection, "SELECT 1 FROM servers WHERE server_id = $1", [self.server_id])
        if row["server"] != MANY or not there:
            raise self._servers.expulsion()
        if getattr(self._local, "leading", False) and row["leader"] != self.server_id:
            raise StorageBusy("Another server does the scheduled work by now.")

    @contextlib.contextmanager
    def still(self) -> Iterator[tuple[Cursor, bytes]]:
        """A snapshot of the rows, also as the bytes of a DuckDB file, while writes continue.

        Raises:
            StorageBusy: The database cannot be reached.
            StorageError: The copy cannot be written.
        """
        # A read throws connections away that a restart of the server left dead.
        self.read().count("SELECT count(*) FROM migrations")
        with _translated():
            connection = self._pool.getconn()
        try:
            rows = PostgresCursor(lambda: contextlib.nullcontext(connection))
            rows.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            rows.count("SELECT count(*) FROM migrations")  # BEGIN alone fixes no moment yet
            with self._copying:
                content = self._copied(connection)
            yield rows, content
        finally:
            with contextlib.suppress(psycopg.Error):
                connection.execute(b"ROLLBACK")
            self._pool.putconn(connection)

    def _copied(self, connection: Connection) -> bytes:
        """The rows that a transaction sees, as a DuckDB file."""
        with _translated(), fresh_file(self._folder, self._host, self._wait) as (copy, content):
            for table, columns in copy.tables().items():
                copy.append(table, columns, _stream(connection, table, columns))
            return content()

    def rows_of(self, table: str, columns: Sequence[str]) -> Iterator[list[Any]]:
        """All rows of a table in parts."""
        with _translated(), self._pool.connection() as connection, connection.transaction():
            yield from _stream(connection, table, columns)

    def refuse_filled(self) -> None:
        """Raises StorageError if anything was kept in it."""
        if not self.fresh:
            raise StorageError("The database has a catalog already. Choose an empty one.")

    def fill(self, source: EmbeddedDatabase) -> None:
        """Take all rows of a DuckDB file, in one transaction, into a catalog without any.

        Raises:
            StorageError: There are rows already.
        """
        self.refuse_filled()
        with self.write() as tx, _translated():
            assert isinstance(tx, PostgresCursor)
            with tx._borrow() as connection:
                for table, columns in source.tables().items():
                    _copy_in(connection, table, columns, source.rows_of(table, columns))

    def _bind(self) -> None:
        """Files and rows belong together: swept against other rows, files would all be deleted.

        Raises:
            StorageError: The catalog is that of another data folder.
        """
        row = self.read().one("SELECT catalog_id FROM writer")
        assert row is not None
        here = self._folder / CATALOG_ID
        known = here.read_text().strip() if here.exists() else None
        # A bucket says itself whose files it has: this folder has none.
        files = self._host.files
        elsewhere = not isinstance(files.to if isinstance(files, TwoPlaces) else files, Folder)
        if known is None and (self.fresh or elsewhere):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_durably(here, str(row["catalog_id"]).encode())
        elif known != row["catalog_id"]:
            raise StorageError(
                "The database's catalog belongs to another data folder. Set MEDSEC_DATA to that"
                " folder, or MEDSEC_DATABASE to this folder's database."
            )

    def _recover(self) -> None:
        """Throw away connections that are dead, and hold the catalog again.

        Raises:
            StorageBusy: The database cannot be reached.
            StorageError: Another server has taken over.
        """
        if not self._recovering.acquire(timeout=self._wait):
            raise StorageBusy(_LOST)
        try:
            self._lease.renew()
            self._pool.check()
        finally:
            self._recovering.release()


class _Lease:
    """One server's hold on a database, by an advisory lock of a connection of its own."""

    def __init__(self, options: dict[str, Any], *, many: bool = False) -> None:
        self._options = options
        self._many = many
        self._connection: Connection | None = None
        self._server = ""

    @property
    def version(self) -> int:
        """Of the database server, as one number."""
        assert self._connection is not None
        return self._connection.info.server_version

    @property
    def connection(self) -> Connection | None:
        """The one that has the lock; another one after it was lost."""
        return self._connection

    def cursor(self) -> Cursor:
        """On the connection that has the lock. Raises StorageBusy where there is none."""
        connection = self._connection
        if connection is None:
            raise StorageBusy(_LOST)
        return PostgresCursor(lambda: contextlib.nullcontext(connection))

    @contextlib.contextmanager
    def held(self) -> Iterator[Cursor]:
        """Take the lock; gives the cursor of its connection, for what is done at the start.

        Raises:
            SettingsError: Clear text to another machine.
            StorageBusy: Another server has it, or the database cannot be reached.
        """
        with _translated():
            self._take()
            yield self.cursor()

    def take_over(self, tx: Cursor, server: str) -> None:
        """From here on, the writers' row names this server and no other can write."""
        tx.run("UPDATE writer SET server = $1, leader = ''", server)
        tx.run("DELETE FROM servers")  # of some that lost the database before they could leave
        tx.run("DELETE FROM shared")
        self._server = server

    def check(self, server: str) -> None:
        """Raises StorageError if the writers' row names another server."""
        if server != self._server:
            raise StorageError(
                "Another MedSec server has taken over the database. Stop this one.", fatal=True
            )

    def renew(self) -> None:
        """Take the lock again if its connection was lost. Raises as :meth:`held`."""
        connection = self._connection
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                connection.execute(b"SELECT 1")
                return
        self.close()
        with _translated():
            self._take()

    def close(self) -> None:
        """Let go at once; a connection that is closed is noticed a moment later."""
        if self._connection is not None:
            with contextlib.suppress(psycopg.Error):
                self._connection.execute(b"SELECT pg_advisory_unlock_all()")
            self._connection.close()
            self._connection = None

    def _take(self) -> None:
        try:
            connection: Connection = psycopg.connect(**self._options, **_CONNECTION)
        except psycopg.Error as err:  # it names no reason that a program could tell apart
            if any(said in str(err) for said in _CERTIFICATE):
                raise StorageBusy(_NOT_TRUSTED) from err
            raise StorageBusy(_LOST if self._server else _NOT_CONNECTED) from err
        try:
            _refuse_clear_text(connection)
            pause = threading.Event()
            for _ in range(_TRIES):  # the database notices after a moment that a process was killed
                if _locked(connection, _LEASE, shared=self._many):
                    break
                pause.wait(_TRY_SECONDS)
            else:
                raise StorageBusy(_ONLY_ONE if self._many else _ANOTHER)
        except BaseException:
            connection.close()
            raise
        self._connection = connection


def migrate(url: str, server: str, host: Host, wait_seconds: float) -> list[str]:
    """Make or change the tables as their owner, while no server runs. See the schema's.

    Args:
        url: Of the role that owns the tables.
        server: The role that the server signs in with.

    Returns:
        Names of the steps that were done.
    """
    lease = _Lease(_options(url, wait_seconds))
    try:
        with lease.held() as tx:
            schema.check_server(lease.version, tx)
            tx.run("BEGIN")
            done = schema.migrate(tx, server, host)
            tx.run("COMMIT")
            return done
    finally:
        lease.close()


def _options(url: str, wait_seconds: float) -> dict[str, Any]:
    """What to connect with.

    Raises:
        SettingsError: Not a URL of PostgreSQL, or clear text to another machine. It does not quote
            the URL, which may have a password.
    """
    try:
        given: dict[str, Any] = dict(conninfo.conninfo_to_dict(url))
    except psycopg.Error:
        given = {}
    if not url.startswith(("postgresql://", "postgres://")) or not given.get("dbname"):
        raise SettingsError(
            "MEDSEC_DATABASE must be of the form postgresql://role@host/database?sslmode=verify-full."
        )
    if "service" in given:
        raise SettingsError("MEDSEC_DATABASE must name the host itself, not a service.")
    # What the URL leaves out comes from environment variables, such as PGHOST.
    meant = {o.keyword.decode(): (o.val or b"").decode() for o in pq.Conninfo.get_defaults()}
    meant |= given
    hosts = [*str(meant["host"]).split(","), *str(meant["hostaddr"]).split(",")]
    if not all(map(_is_here, hosts)) and meant["sslmode"] not in _SAFE_MODES:
        raise SettingsError(
            "MEDSEC_DATABASE names another machine: add sslmode=verify-full, and sslrootcert with"
            " the CA's certificate, so that the connection is encrypted and the server is known."
        )
    settings = {**_SERVER_SETTINGS, "lock_timeout": f"{max(1, round(wait_seconds * 1000))}ms"}
    words = " ".join(f"-c {name}={value}" for name, value in settings.items())
    return {
        **_DEFAULTS,
        **given,
        "client_encoding": "utf8",
        "options": f"{given.get('options', '')} {words}".strip(),
    }


def _is_here(host: str) -> bool:
    """Is it this machine, or a socket on it?"""
    if host in ("", "localhost") or host.startswith(("/", "@")):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _refuse_clear_text(connection: Connection) -> None:
    """The URL says what it wants; this is what it got. Environment variables can name a host, too.

    Raises:
        SettingsError: Clear text to another machine.
    """
    address = connection.info.hostaddr or connection.info.host
    if not _is_here(address) and not connection.pgconn.ssl_in_use:
        raise SettingsError("The connection to the database is not encrypted. Add sslmode.")


def _application(server_id: str) -> str:
    """The name of a server's connections, for the database and whoever looks there."""
    return f"medsec {server_id}"


def _locked(connection: Connection, lock: tuple[int, int], *, shared: bool = False) -> bool:
    """Take one of the advisory locks for as long as this connection is open, if it is free."""
    function = "pg_try_advisory_lock_shared" if shared else "pg_try_advisory_lock"
    return bool(_rows(connection, f"SELECT {function}($1, $2) AS got", lock)[0]["got"])


def _rows(connection: Connection, sql: str, values: Sequence[Any]) -> list[Row]:
    cursor = connection.execute(schema.translated(sql).encode(), values or None)
    return cursor.fetchall() if cursor.description is not None else []


def _refuse_lost(connection: Connection, what: str) -> None:
    """The locks of a connection last as long as it does. Raises TurnLost."""
    try:
        connection.execute(b"SELECT 1")
    except psycopg.Error as err:
        raise TurnLost(
            f"The {what} was given up: the connection to the database was lost, and another server"
            " may do the same by now. Try again in a moment."
        ) from err


def _commit(connection: Connection) -> None:
    """Commit a whole transaction; it is not on the disk yet.

    Raises:
        StorageError: A statement in it had failed.
        ChangeUnknown: The connection was lost.
    """
    if connection.info.transaction_status is not pq.TransactionStatus.INTRANS:
        raise StorageError("The catalog refused the request. Tell your administrator.")
    try:
        connection.execute(b"COMMIT")
    except psycopg.Error as err:
        _refuse_unknown(err)


def _on_disk(connection: Connection) -> None:
    """Wait until everything that was committed by now is on the disk of the database server.

    Raises:
        ChangeUnknown: The connection was lost.
    """
    try:
        connection.execute(_FLUSH)
    except psycopg.Error as err:
        _refuse_unknown(err)


def _refuse_unknown(err: psycopg.Error) -> NoReturn:
    raise ChangeUnknown(
        "The connection to the database was lost while a change was being saved. Look whether it"
        " was saved before you make it again."
    ) from err


def _stream(connection: Connection, table: str, columns: Sequence[str]) -> Iterator[list[Any]]:
    """Rows of a table in parts, in the order in which they came where that means something."""
    order = "rowid" if table == "patient_history" else "1"
    names = ", ".join(f'"{name}"' for name in columns)
    query = f'SELECT {names} FROM "{table}" ORDER BY {order}'  # noqa: S608
    with psycopg.RawServerCursor(connection, "rows", row_factory=tuple_row) as cursor:
        cursor.execute(query.encode())
        while part := cursor.fetchmany(_ROWS_AT_ONCE):
            yield part


def _copy_in(
    connection: Connection, table: str, columns: Sequence[str], parts: Iterator[list[Any]]
) -> None:
    names = ", ".join(f'"{name}"' for name in columns)
    with connection.cursor().copy(f'COPY "{table}" ({names}) FROM STDIN'.encode()) as copy:
        for part in parts:
            for row in part:
                copy.write_row(row)


def _is_lost(err: psycopg.Error) -> bool:
    """Did the connection break, so that it says nothing about the statement?"""
    if isinstance(err, psycopg_pool.PoolTimeout | psycopg_pool.PoolClosed):
        return False
    if err.sqlstate is None:
        return isinstance(err, _BROKEN)
    return err.sqlstate.startswith(_GONE)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except psycopg.Error as err:
        _translate(err)
    except UnicodeEncodeError as err:
        _refuse_text(err)


def _refuse_text(err: Exception) -> NoReturn:
    raise InputError("The text contains a character that cannot be stored. Remove it.") from err


def _translate(err: psycopg.Error) -> NoReturn:
    """Named errors only; the database's own text may quote values, so it stays in the cause."""
    errors = psycopg.errors
    if isinstance(err, psycopg.IntegrityError):
        raise StorageError("The catalog already has such an entry.") from err
    if isinstance(err, psycopg.DataError) and err.sqlstate is None:  # a NUL within a text
        _refuse_text(err)
    if isinstance(
        err,
        errors.LockNotAvailable | errors.SerializationFailure | errors.DeadlockDetected
        | errors.QueryCanceled,
    ):  # fmt: skip
        raise StorageBusy(
            "The catalog is busy with another change. Try again in a moment."
        ) from err
    if isinstance(
        err, psycopg_pool.PoolTimeout | psycopg_pool.PoolClosed | errors.TooManyConnections
    ):
        raise StorageBusy("The database cannot be reached. Try again in a moment.") from err
    if _is_lost(err):
        raise StorageBusy(_LOST) from err
    if isinstance(err, errors.InsufficientPrivilege):
        raise StorageError(
            "The database role lacks a right. Run medsec database-migrate again.",
            kind=type(err).__name__,
        ) from err
    if isinstance(err, errors.DiskFull):
        raise StorageError("The database server's disk is full. Free some space.") from err
    raise StorageError(
        "The catalog refused the request. Tell your administrator.", kind=type(err).__name__
    ) from err
