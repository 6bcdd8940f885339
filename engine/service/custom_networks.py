"""Custom networks: ONNX files of the hospital, checked, kept encrypted, run in the sandbox."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from engine.detection import CustomNetworkRecord, CustomNetworkSource, SentNetwork, Shape
from engine.errors import InputError
from engine.operations.context import Context
from engine.operations.guard import Guard, needs
from engine.permissions import Permission
from engine.records import Caller


class CustomNetworks:
    """Networks that an administrator adds; profiles can name them."""

    def __init__(self, context: Context, guard: Guard) -> None:
        self._audit = context.audit
        self._custom_networks = context.custom_networks
        self._database = context.database
        self._detector = context.detector
        self._host = context.host
        self._profile_store = context.profile_store
        self._guard = guard

    @needs(Permission.MANAGE_SETTINGS)
    def records(self, caller: Caller) -> dict[str, CustomNetworkRecord]:
        """Networks of the hospital's own, by the name that profiles use."""
        return self._custom_networks.records()

    @needs(Permission.MANAGE_SETTINGS)
    def inspect(self, caller: Caller, model: bytes) -> Shape:
        """Which classes an ONNX network finds, and at which size; nothing is kept.

        Raises:
            InputError: Not a network that MedSec can run.
        """
        return self._custom_networks.inspected(model)

    @needs(Permission.MANAGE_SETTINGS)
    def add(
        self,
        caller: Caller,
        name: str,
        title: str,
        model: bytes,
        names: Mapping[str, str],
        side: int | None = None,
    ) -> CustomNetworkRecord:
        """Take a network of the hospital's own: checked by running it, kept encrypted.

        Profiles can name it from now on. It never sees a key, and what it does wrong sends the
        image to a person.

        Args:
            names: For each of its classes that counts, MedSec's class.
            side: Of the square picture it is shown, px, where the file leaves that open.

        Raises:
            InputError: Not a network that MedSec can run, or run and failed.
        """
        finds = self._detector.finds()
        known = {label for found in finds.values() for label in found}
        sent = SentNetwork(name, title, model, names, side)
        facts = self._custom_networks.checked(sent, known, finds)
        blob = self._custom_networks.store(model, facts)
        with self._database.write() as tx:
            if name in self._custom_networks.records():
                raise InputError("A network with this name exists. Choose another name.")
            self._custom_networks.add(tx, self._audit, caller, name, blob, facts)
        self.meet()
        return self._custom_networks.records()[name]

    @needs(Permission.MANAGE_SETTINGS)
    def remove(self, caller: Caller, name: str) -> None:
        """Take a network of the hospital's own away, once no profile names it.

        Raises:
            InputError: A profile names it.
            NotFound: There is none of this name.
        """
        with self._database.write() as tx:
            users = [p.title for p in self._profile_store.in_force().values() if name in p.networks]
            if users:
                raise InputError(
                    f"This network is used by: {', '.join(users)}."
                    " Remove it from these profiles first."
                )
            blob = self._custom_networks.remove(tx, self._audit, caller, name)
        self.meet()
        self._host.delete_blob(blob)

    def meet(self) -> None:
        """Tell the detector which networks of the hospital's own there are."""
        self._custom_networks.forget()
        self._detector.custom_networks = {
            name: CustomNetworkSource(record.finds, partial(self._custom_networks.network, name))
            for name, record in self._custom_networks.records().items()
        }
