"""Images and patients erased for good, here and beside the backups."""

from __future__ import annotations

from collections.abc import Sequence

from engine.errors import EngineError, InputError, NotFound, StorageError, StoreUnavailable
from engine.host import write_durably
from engine.operations.context import Context
from engine.operations.guard import log
from engine.operations.release_decisions import ReleaseDecisions
from engine.operations.stored_images import OPEN_STATES
from engine.permissions import Role
from engine.records import Caller
from engine.store.audit import Event
from engine.store.database import Cursor

#: In the data folder: where the list was written last.
LISTED = "erasures.listed"
#: For others who write the list, each for a moment.
_PATIENCE_SECONDS = 10.0


class Erasures:
    """Destroys keys, and keeps the list of what was erased."""

    def __init__(self, context: Context) -> None:
        self._access = context.access
        self._accounts = context.accounts
        self._audit = context.audit
        self._catalog = context.catalog
        self._database = context.database
        self._host = context.host
        self._live = context.live
        self._open_images = context.open_images
        self._patients = context.patients
        self._sessions = context.sessions
        self._studies = context.studies
        self._decisions = ReleaseDecisions(context)
        self._backup_folder = context.backup_folder
        #: Did the list reach the backup folder? If not, the upkeep tries again.
        self.kept = False

    def known(self, tx: Cursor) -> list[tuple[str, str]]:
        """Kind (``image`` or ``patient``) and key of everything that was erased."""
        return self._catalog.erasures(tx)

    def keep(self) -> None:
        """Tell the backup folder what is erased by now: its backups were made before.

        An erasure is not undone because that folder is away; the health page says so then.
        """
        if not self._live.settings.keeps_backups:
            self.kept = True
            return
        try:
            # Two erasures at once must not write the older list last.
            with self._database.alone("list of erasures", _PATIENCE_SECONDS):
                erasures = self.known(self._database.read())
                # Even an empty list saves each start from reading all backups in a bucket.
                if erasures or self._live.settings.backups:
                    self._backup_folder().record_erasures(erasures)
                    self._note_listed()
            self.kept = True
        except EngineError as err:
            self.kept = False
            log.error("the list of erasures is not beside the backups: %s", err.code)

    def catch_up(self) -> None:
        """Erase again what the list beside the backups names and this catalog does not know.

        The list is written behind the catalog, so it is ahead only of one that was set back to an
        earlier moment without MedSec: by the database's own means, or with its whole disk. Nothing
        in a catalog tells that it was set back, so nobody works in it before the list was read.

        Raises:
            SettingsError: Backups are to be locked, and the bucket has no object lock.
            StorageError: There was a list, and the backup folder is empty.
            StoreUnavailable: The bucket with the list does not answer, or refuses.
        """
        if not self._live.settings.keeps_backups:
            return
        try:
            self._backup_folder().check_lock()
            self._refuse_empty()
            listed = self._backup_folder().erasures()
        except StoreUnavailable as err:
            raise StoreUnavailable(
                "The list of what was erased cannot be read from MEDSEC_BACKUPS, and MedSec does"
                " not start without it: this catalog may be an older one. Bring the object store"
                " back, then start again. If you know that the catalog was not set back, you can"
                " unset MEDSEC_BACKUPS until then.",
                **err.facts,
            ) from err
        missed = listed - set(self.known(self._database.read()))
        if missed:
            log.error("the catalog was set back: %d erasures are done again", len(missed))
            self.again(sorted(missed))

    def _where(self) -> str:
        settings = self._live.settings
        return settings.backups or str((settings.backup_dir or settings.data).resolve())

    def _note_listed(self) -> None:
        note = self._live.settings.data / LISTED
        if not note.exists() or note.read_text() != self._where():
            try:
                write_durably(note, self._where().encode())
            except OSError as err:
                raise StorageError("Cannot write to the data folder.", errno=err.errno) from err

    def _refuse_empty(self) -> None:
        """A folder that is not mounted is an empty one. Raises StorageError."""
        note = self._live.settings.data / LISTED
        if note.exists() and note.read_text() == self._where() and self._backup_folder().is_empty():
            raise StorageError(
                "The list of what was erased is gone from the place for backups, with all backups:"
                " is MEDSEC_BACKUP_DIR mounted? MedSec does not start without the list, because"
                " this catalog may be an older one. If the backups were deleted on purpose, delete"
                f" the file {LISTED} in the data folder."
            )

    def image(
        self,
        caller: Caller,
        image_id: str,
        reason: str,
        action: str,
        *,
        never_sealed: bool = False,
    ) -> None:
        """Destroy an image's key.

        Args:
            action: For the log.
            never_sealed: Only a draft that was never sealed.

        Raises:
            InputError: No reason.
            NotFound: No such image.
        """
        if not reason.strip():
            raise InputError("Give a reason for erasing the image.")
        with self._database.write() as tx:
            row = self._catalog.row(tx, image_id)
            # Asked in the transaction: somebody may be sealing it at this moment, and one that
            # was sealed is not a technician's to destroy.
            if never_sealed and (row.state not in OPEN_STATES or row.version > 0):
                raise NotFound("There is no such draft.")
            blobs = self._catalog.erase(tx, image_id, self._host.now())
            self._studies.forget(tx, image_id)
            gone = Event(
                action, patient_id=row.patient_id, image_id=image_id, reason=reason.strip()
            )
            self._audit.append(tx, caller, gone)
            self._decisions.gone(tx, caller, image_id)
        self._open_images.close_subject(image_id)
        for blob in blobs:
            self._host.delete_blob(blob)
        self.keep()

    def patient(self, caller: Caller, patient_id: str, reason: str) -> None:
        """Destroy a patient's key, and with it the record, notes and images. Raises NotFound."""
        with self._database.write() as tx:
            blobs = []
            images = self._catalog.of_patient(tx, patient_id)
            for image_id in images:
                blobs += self._catalog.erase(tx, image_id, self._host.now())
                self._studies.forget(tx, image_id)
            self._patients.erase(tx, patient_id)
            self._access.forget_patient(tx, patient_id)
            self._audit.append(
                tx,
                caller,
                Event("patient.erase", patient_id=patient_id, reason=reason.strip()),
                *(Event("image.erase", patient_id=patient_id, image_id=i) for i in images),
            )
            for image_id in images:
                self._decisions.gone(tx, caller, image_id)
        for image_id in images:
            self._open_images.close_subject(image_id)
        for blob in blobs:
            self._host.delete_blob(blob)
        self.keep()

    def again(self, erasures: Sequence[tuple[str, str]]) -> None:
        """After a recovery: erase what was erased since that moment, and end all sessions."""
        system = Caller("system", Role.OPERATOR, "", "recovery")
        why = "erased before this recovery"
        for kind, subject_id in erasures:
            try:
                if kind == "patient":
                    self.patient(system, subject_id, why)
                else:
                    self.image(system, subject_id, why, "image.erase")
            except NotFound:  # the backup knew already, or is older; a later one is not
                with self._database.write() as tx:
                    self._catalog.note_erasure(tx, kind, subject_id, self._host.now())
        with self._database.write() as tx:
            for account in self._accounts.list():
                self._sessions.end_all(tx, account.username)
