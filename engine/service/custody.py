"""Keys in use: rotation, recovery shares, key exchange, and what travels under one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from engine.errors import EngineError, InputError, NotFound, PermissionDenied, StorageBusy
from engine.formats import images
from engine.permissions import Permission
from engine.records import Caller
from engine.seal.pipeline import Restored
from engine.service.guard import log, needs
from engine.service.restoring import Restoring
from engine.store.audit import Event
from engine.store.backup import Snapshot
from engine.vault import SALT_RECORD, Group

#: Images named one by one after a backup that lacks their files; a lost disk would name them all.
MOST_TOLD = 100


class Custody(Restoring):
    """Methods of the Engine."""

    @needs(Permission.MANAGE_KEYS)
    def rotate_keys(self, caller: Caller, *, new_root: bool = True) -> Iterator[int]:
        """Add a root key and re-wrap every key under it; yields how many are left.

        Can be stopped anywhere: called again with ``new_root=False`` it goes on.

        Raises:
            SettingsError: The root keys do not come from a file that can be added to.
        """
        if new_root:
            key_id = self.hierarchy.add_root_key()
            self.audit.record(caller, Event("key.add", detail={"key_id": key_id}))
        return self._rotation(caller)

    def _rotation(self, caller: Caller) -> Iterator[int]:
        yield from self.hierarchy.rotate()
        self.audit.record(caller, Event("key.rotate"))

    @needs(Permission.MANAGE_KEYS)
    def recovery_shares(self, caller: Caller, needed: int = 2, total: int = 3) -> tuple[str, ...]:
        """Printable shares of the newest root key. Show each once, to a different holder.

        Raises:
            InputError: Not 2 <= needed <= total <= 16.
        """
        try:
            shares = self.hierarchy.split_newest(needed, total)
        except ValueError as err:
            raise InputError("There are 2 to 16 shares, of which at least 2 are needed.") from err
        detail = {"key_id": self.hierarchy.root_key_ids[-1], "needed": needed, "total": total}
        self.audit.record(caller, Event("key.share", detail=detail))
        return shares

    @needs(Permission.MANAGE_KEYS)
    def drill_shares(self, caller: Caller, shares: Sequence[str]) -> str:
        """Prove that shares give back a root key, without showing it.

        Returns:
            Id of the key.

        Raises:
            InputError: Mistyped, too few, or of different keys.
            SealError: They give another key than they say, or one that is not at hand.
        """
        key_id = self.hierarchy.drill(shares)
        self.audit.record(caller, Event("key.drill", detail={"key_id": key_id}))
        return key_id

    @needs(Permission.MANAGE_BACKUPS)
    def make_backup(self, caller: Caller) -> str:
        """Write a backup while everybody goes on working, check it, and prune old ones.

        Returns:
            The backup's name.

        Raises:
            SettingsError: MEDSEC_BACKUP_DIR is not set.
            AuditBroken: The log does not verify; a backup must not hide that.
            StorageBusy: Another one is being written.
            StorageError: It could not be written or does not verify.
        """
        return self._make_backup(caller)

    def _make_backup(self, caller: Caller) -> str:
        # One at a time: pruning after one would take the files of another that has no
        # manifest yet.
        if not self._backing_up.acquire(blocking=False):
            raise StorageBusy("A backup is being written already: wait for it.")
        try:
            return self._backed_up(caller)
        finally:
            self._backing_up.release()

    def _backed_up(self, caller: Caller) -> str:
        self.audit.verify()
        backups = self._backups()
        with self.host.keeping_blobs():
            with self.database.still() as (rows, content):
                snapshot = Snapshot(
                    content,
                    sorted(self.catalog.blobs(rows)),
                    self._erasures(rows),
                    rows.count("SELECT count(*) FROM audit"),
                )
            record = self.settings.data / SALT_RECORD
            name = backups.make(
                snapshot, self.host, record.read_bytes() if record.exists() else None
            )
        detail: dict[str, Any] = {"name": name}
        missing = backups.missing(name)
        if missing:
            log.error("a backup lacks %d stored files", len(missing))
            detail |= {"why": "files-missing", "missing": len(missing)}
        self.audit.record(caller, Event("backup.make", detail=detail))
        broken = self.catalog.needing(self.database.read(), missing) if missing else {}
        for image_id, address in islice(broken.items(), MOST_TOLD):
            self._tell_broken(caller, image_id, missing[address])
        pruned = backups.prune(self.settings.backups_kept, name)
        if pruned:
            self.audit.record(caller, Event("backup.prune", detail={"names": pruned}))
        return name

    @needs(Permission.MANAGE_BACKUPS)
    def backups(self, caller: Caller) -> list[str]:
        """Names of the backups there are, oldest first."""
        return self._backups().names()

    @needs(Permission.MANAGE_BACKUPS)
    def verify_backup(self, caller: Caller, name: str) -> int:
        """Check a backup's catalog and files; says how many. Raises BackupInvalid."""
        files = self._backups().verify(name)
        self.audit.record(caller, Event("backup.verify", detail={"name": name, "files": files}))
        return files

    @needs(Permission.MANAGE_BACKUPS)
    def missing_in_backup(self, caller: Caller, name: str) -> list[str]:
        """Addresses of files that were lost already when it was made. Raises BackupInvalid."""
        return sorted(self._backups().missing(name))

    def signing_key(self) -> bytes:
        """The Ed25519 public key that signs exchanges and checkpoints, for clients to pin."""
        return self.hierarchy.signer().public_bytes

    @needs(None)
    def offer_exchange(self, caller: Caller, group: str = Group.FFDHE3072) -> dict[str, Any]:
        """Diffie-Hellman parameters and the server's signed public value, for one answer.

        Raises:
            InputError: A group that is not offered.
        """
        try:
            chosen = Group(group)
        except ValueError as err:
            raise InputError(f"The groups are {', '.join(Group)}.") from err
        return self.exchanges.offer(caller.session_id, chosen)

    @needs(None)
    def answer_exchange(self, caller: Caller, answer: Mapping[str, Any]) -> dict[str, Any]:
        """Take the client's public value; both sides then hold the same AES-256 key.

        Raises:
            ExchangeError: Used, expired, another session's, or a value that is not allowed.
        """
        confirmed = self.exchanges.accept(caller.session_id, answer)
        self.audit.record(caller, Event("key.exchange"))
        return confirmed

    @needs(Permission.RESTORE)
    def deliver_file(
        self,
        caller: Caller,
        handle: str,
        exchange_id: str,
        format: str = "original",
        frame: int = 0,
        enhance: bool = False,
    ) -> bytes:
        """A restoration of this session, readable only with this session's exchanged key.

        The message is bound to what was asked for, so that a proxy cannot answer with another
        image: context ``image/<image id>/<format>/<frame>/<plain or enhanced>``.

        Raises:
            ExchangeError: There is no such exchange for this session.
            NotFound: The restoration expired, was closed or is another session's.
        """
        channel = self.exchanges.channel(caller.session_id, exchange_id)
        image_id = self._restoration(caller, handle)[1].record.image_id
        file = self._file_of(caller, handle, format, frame, enhance)
        look = "enhanced" if enhance else "plain"
        return channel.encrypt(file.data, f"image/{image_id}/{format}/{frame}/{look}")

    @needs(Permission.RESTORE, fresh=True)
    def deliver_region(
        self,
        caller: Caller,
        image_id: str,
        region_id: str,
        reason: str,
        exchange_id: str,
        frame: int | None = None,
    ) -> bytes:
        """What is under one box, readable only with this session's exchanged key.

        Regions of a class are sealed in one stream, so those of its class are opened and
        proven with it; the pixels of one leave this method.

        Args:
            frame: One of the region's; by default its first.

        Returns:
            A PNG of the box as a screen shows it, under the channel's key, with the context
            ``region/<region id>/<frame>``.

        Raises:
            InputError: No reason.
            NotFound: No such region of a released image, or none on this frame.
            PermissionDenied: Its class is not granted to this account.
            SealError: It does not open; no such exchange for this session.
        """
        if self.settings.reason_required and not reason.strip():
            raise InputError("Say why you need to see the original.")
        channel = self.exchanges.channel(caller.session_id, exchange_id)
        tx = self.database.read()
        row = self._released(tx, image_id)
        where = Event(
            "region.decrypt",
            "requested",
            patient_id=row["patient_id"],
            image_id=image_id,
            region_id=region_id,
            reason=reason.strip(),
        )
        self.audit.record(caller, where)
        try:
            regions = [r for r, _ in self.catalog.regions(tx, image_id)]
            region = next((r for r in regions if r.region_id == region_id), None)
            if region is None:
                raise NotFound("There is no such region.")
            box, label = region.detection.region, region.detection.label
            chosen = box.frame if frame is None else frame
            if not box.frame <= chosen < box.frame_end:
                raise NotFound("This region is not on that frame.")
            if not self.granted(caller)(label):
                raise PermissionDenied("The class of this region is not granted to your account.")

            def read() -> Restored:
                subject = self._sealed_subject(tx, image_id)
                row = self.catalog.verify(tx, subject.key, image_id)
                return self._opened(subject, row, lambda other: other == label)[1]

            restored = self._steady(image_id, read)
            shown = images.render(restored.image, chosen)[box.y1 : box.y2, box.x1 : box.x2]
            payload = images.encode_png(shown)
        except EngineError as err:
            failed = replace(where, outcome="failed", reason="", detail={"why": err.code})
            self.audit.record(caller, failed)
            raise
        same = [replace(where, outcome="ok", reason="", region_id=r) for r in restored.opened]
        self.audit.record(caller, *same)
        return channel.encrypt(payload, f"region/{region_id}/{chosen}")
