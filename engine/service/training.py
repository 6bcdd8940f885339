"""Missed cases kept for training: listed, exported to a key, ended in time. The operator's part."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from engine.detection import NETWORK_SUFFIX, LearnedFile
from engine.errors import EngineError
from engine.operations.context import Context
from engine.operations.guard import Guard, needs
from engine.permissions import Permission
from engine.records import Caller
from engine.store.audit import Event
from engine.store.training_cases import SUFFIX, TrainingCase, export_key
from engine.vault import key_id_of


class Training:
    """Cases kept for training."""

    def __init__(self, context: Context, guard: Guard) -> None:
        self._audit = context.audit
        self._database = context.database
        self._host = context.host
        self._live = context.live
        self._training_cases = context.training_cases
        self._versions = context.network_versions
        self._guard = guard

    @needs(Permission.EXPORT_TRAINING)
    def cases(self, caller: Caller) -> list[TrainingCase]:
        """Cases that are kept, oldest first; nothing of what they show."""
        self._audit.record(caller, Event("training.list"))
        return self._training_cases.cases()

    @needs(Permission.EXPORT_TRAINING)
    def in_force(self, caller: Caller) -> tuple[str, bytes] | None:
        """The learned version in force as a file, to learn on from; None for the shipped one.

        Raises:
            DetectorError: Its file is missing or altered.
        """
        tx = self._database.read()
        name = self._versions.standing(tx).in_force
        if not name:
            return None
        card = self._versions.records(tx)[name].card
        file = LearnedFile(card, self._versions.version(name))
        return name + NETWORK_SUFFIX, file.to_bytes()

    @needs(Permission.EXPORT_TRAINING)
    def export(
        self, caller: Caller, key_file: Path, again: bool = False
    ) -> Iterator[tuple[str, bytes | EngineError]]:
        """Cases as files that open with one key only; each is in the log as it leaves.

        Args:
            key_file: Made where there is none. Move it to the machine that trains.
            again: Also those that have left before.

        Yields:
            A file's name, and its content or why there is none.

        Raises:
            SettingsError: The file holds no key.
        """
        key = export_key(key_file, self._host.random)
        return self._exported(caller, key, again)

    def _exported(
        self, caller: Caller, key: bytes, again: bool
    ) -> Iterator[tuple[str, bytes | EngineError]]:
        for case in self._training_cases.cases():
            if case.exported_at is not None and not again:
                continue
            event = Event(
                "training.export",
                patient_id=case.patient_id,
                image_id=case.image_id,
                detail={"case": case.case_id, "key": key_id_of(key)},
            )
            try:
                sealed = self._training_cases.sealed_to(case, key)
            except EngineError as err:
                yield case.case_id + SUFFIX, err
                continue
            with self._database.write() as tx:
                self._training_cases.exported(tx, case.case_id)
                self._audit.append(tx, caller, event)
            yield case.case_id + SUFFIX, sealed

    def expire(self, caller: Caller) -> None:
        """End what was kept longer than the setting says."""
        with self._database.write() as tx:
            gone = self._training_cases.expire(tx, self._live.settings.training_days)
            if gone:
                self._audit.append(
                    tx, caller, Event("training.expire", detail={"cases": len(gone)})
                )
        for blob in gone:
            self._host.delete_blob(blob)
