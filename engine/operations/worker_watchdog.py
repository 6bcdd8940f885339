"""Terminates a batch worker when the process that started it ends for any reason.

A worker holds decoded pixels and keys of images. Dask lets it finish what it is at after its
scheduler is gone, which took half a minute after a server was killed. Their folder, in which Dask
keeps locks and no data, goes with them. Dask's nanny loads this as a file (``--preload-nanny``),
without the rest of the engine.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading

FOLDER = "medsec-workers-"  # how the name of their folder begins


def dask_setup(_nanny: object) -> None:
    """Dask calls this once, in the nanny."""
    threading.Thread(target=_hold, name="watchdog", daemon=True).start()


def _hold() -> None:
    # Nothing more is written to this pipe: it closes when the parent process ends.
    while os.read(0, 1):
        pass
    folder = os.environ.get("TMPDIR", "")
    if os.path.basename(folder).startswith(FOLDER):  # made for these workers alone
        shutil.rmtree(folder, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)  # the nanny leads the group, its worker is in it
