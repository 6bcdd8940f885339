"""Measured numbers of all images and their export."""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import datetime

import pandas as pd

from engine.errors import InputError
from engine.operations.context import Context
from engine.operations.guard import Guard, needs
from engine.operations.measured_numbers import MeasuredNumbers, Statistics
from engine.permissions import Permission
from engine.records import Caller, File
from engine.store.audit import Event


class ImageStatistics:
    """Tables of measured numbers; ``engine.measure.disclosure`` decides for whom."""

    def __init__(self, context: Context, guard: Guard, numbers: MeasuredNumbers) -> None:
        self._audit = context.audit
        self._guard = guard
        self._numbers = numbers

    @needs(Permission.STATISTICS)
    def tables(self, caller: Caller) -> Statistics:
        """Measured numbers of all released images, without any identifier.

        Who may not see single images (researchers, administrators) gets what
        ``engine.measure.disclosure`` allows: whole batches of at least five patients, months
        instead of days, columns shuffled apart, values in coarse steps (``engine.measure.coarse``).
        """
        self._guard.record_read(caller, Event("statistics.read"))
        return self._numbers.of(caller)

    @needs(Permission.STATISTICS)
    def export(
        self,
        caller: Caller,
        table: str,
        format: str = "csv",
        modalities: Sequence[str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        labels: Sequence[str] | None = None,
    ) -> File:
        """One table of :meth:`tables` to take away, filtered alike; audited.

        Args:
            table: ``images`` or ``regions``.
            format: ``csv`` or ``parquet``.

        Raises:
            InputError: Another table or format.
        """
        if table not in ("images", "regions"):
            raise InputError("Unknown table. Use images or regions.")
        if format not in ("csv", "parquet"):
            raise InputError("Unknown format. Use csv or parquet.")
        whole = self._numbers.of(caller)
        rows: pd.DataFrame = getattr(whole.only(modalities, since, until, labels), table)
        out = io.BytesIO()
        if format == "csv":
            rows.to_csv(out, index=False)
            kind = "text/csv"
        else:
            rows.to_parquet(out, index=False)
            kind = "application/vnd.apache.parquet"
        self._audit.record(
            caller,
            Event(
                "statistics.export", detail={"table": table, "format": format, "rows": len(rows)}
            ),
        )
        return File(f"medsec-{table}.{format}", kind, out.getvalue())

    def warm(self) -> None:
        """Open the numbers before anybody asks for them. Shows nothing."""
        self._numbers.all()
