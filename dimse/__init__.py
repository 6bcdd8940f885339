"""DICOM message services (PS3.7, PS3.8): what peers of the hospital's network speak to MedSec.

Protocol only: who may do what, and everything that is done, is the engine's. Threads of the
server's process, because that process holds the catalog; what a peer sends reaches a decoder only
in the decoders' own processes.
"""

from dimse.courier import Courier
from dimse.receiver import Receiver

__all__ = ["Courier", "Receiver"]
