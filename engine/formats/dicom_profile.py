"""What a recipient's copy of a masked DICOM file keeps beyond the Basic Profile (PS3.15 annex E).

Four options of the standard can be combined. Attributes are those of table E.1-1 with a K or C in
the option's column (edition 2025a; what later editions add stays with the Basic Profile here). The
method codes of CID 7050 say which options were applied, and no others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from engine.errors import InputError


def _tags(hexadecimal: str) -> frozenset[int]:
    return frozenset(int(tag, 16) for tag in hexadecimal.split())


#: Always: what sealing does (CID 7050). 113102 (Clean Recognizable Visual Features) never.
METHODS = (
    ("113100", "Basic Application Confidentiality Profile"),
    ("113101", "Clean Pixel Data Option"),
)


@dataclass(frozen=True)
class Options:
    """Options of PS3.15 annex E.3.

    Args:
        dates: Retain Longitudinal Temporal Information With Modified Dates: all dates of a patient
            are shifted by the same number of days.
        characteristics: Retain Patient Characteristics. Ages above 89 become 90.
        device: Retain Device Identity.
        descriptors: Clean Descriptors: texts stay without the words that name somebody.
    """

    dates: bool = False
    characteristics: bool = False
    device: bool = False
    descriptors: bool = False

    @classmethod
    def checked(cls, values: Mapping[str, Any]) -> Options:
        """Options of what was typed. Raises InputError."""
        known = {f.name for f in fields(cls)}
        if set(values) - known or not all(type(v) is bool for v in values.values()):
            raise InputError(
                "These are no options of de-identification. Use dates, characteristics, device and"
                " descriptors, each true or false."
            )
        return cls(**values)

    @property
    def methods(self) -> tuple[tuple[str, str], ...]:
        """Method codes of what is done, with their meanings."""
        return METHODS + tuple(code for name, code in _CODES.items() if getattr(self, name))

    @property
    def temporal(self) -> str:
        """Longitudinal Temporal Information Modified (0028,0303)."""
        return "MODIFIED" if self.dates else "REMOVED"

    def kept(self, tag: int) -> str:
        """What becomes of an attribute that the Basic Profile takes away.

        Returns:
            ``K`` it stays, ``C`` its words are cleaned, ``S`` its dates are shifted, or nothing.
        """
        if tag in DATES:
            return "S" if self.dates else ""
        if self.characteristics and tag in CHARACTERISTICS:
            return "C" if tag in _CLEANED else "K"
        if self.device and tag in DEVICE:
            return "K"
        return "C" if self.descriptors and tag in DESCRIPTORS else ""


BASIC = Options()
#: CID 7050.
_CODES = {
    "descriptors": ("113105", "Clean Descriptors Option"),
    "dates": (
        "113107",
        "Retain Longitudinal Temporal Information Modified Dates Option",
    ),
    "characteristics": ("113108", "Retain Patient Characteristics Option"),
    "device": ("113109", "Retain Device Identity Option"),
}
#: Texts among the patient's characteristics.
_CLEANED = _tags("00102110 00380050 00380500 00400012")
CHARACTERISTICS = _tags(
    "00100040 00101010 00101020 00101030 00102110 00102160 001021A0 001021C0 00102203 00380050 "
    "00380500 00400012"
)
#: Without network names (AE), for which the table asks for cleaning, and all of which name a place.
DEVICE = _tags(
    "00081010 0014407C 0014407E 0016004E 0016004F 00160050 00160051 00181000 00181002 00181004 "
    "00181005 00181007 00181008 00181009 0018100A 0018100B 00181200 00181201 00181202 00181203 "
    "00181204 00181205 00185011 0018700A 0018700C 0018700E 00189367 00189371 00189373 00203401 "
    "00321020 00400010 00400011 00400242 00404025 00404027 00404028 00404030 00500020 04000563 "
    "30080105 300A00B2 300A0216 300C0127 3010002D 30100043"
)
#: Without versions of code sets, which are no dates of a patient, and the time zone, which is a
#: place.
#: Dates of a device are here too: that of its calibration is often that of the examination.
DATES = _tags(
    "00080012 00080013 00080015 00080020 00080021 00080022 00080023 00080024 00080025 0008002A "
    "00080030 00080031 00080032 00080033 00080034 00080035 001021D0 00120086 00120087 0014407C "
    "0014407E 0016008D 00180027 00180035 00181012 00181014 00181042 00181043 00181072 00181073 "
    "00181078 00181079 00181200 00181201 00181202 00181203 00181204 00181205 0018700C 0018700E "
    "00189074 00189151 00189369 0018936A 00189516 00189517 00189623 00189701 00189804 00189919 "
    "0018A002 00203403 00203405 00320032 00320033 00320034 00320035 00321000 00321001 00321010 "
    "00321011 00321040 00321041 00321050 00321051 00340007 0038001A 0038001B 0038001C 0038001D "
    "00380020 00380021 00380030 00380032 003A0314 00400002 00400003 00400004 00400005 00400244 "
    "00400245 00400250 00400251 00402004 00402005 00404005 00404008 00404010 00404011 00404050 "
    "00404051 00404052 0040A023 0040A024 0040A030 0040A032 0040A033 0040A082 0040A110 0040A112 "
    "0040A120 0040A121 0040A122 0040A13A 0040A192 0040A193 0040E004 00440004 0044000B 00440010 "
    "00440104 00440105 00686226 00686270 00700082 00700083 0072000A 00720061 00720063 0072006B "
    "01000420 04000105 04000310 04000562 21000040 21000050 30060008 30060009 3006002D 3006002E "
    "30080024 30080025 30080054 30080056 30080162 30080164 30080166 30080168 30080250 30080251 "
    "300A0006 300A0007 300A022C 300A022E 300A0736 300A073A 300A0741 300A0760 300C0127 300E0004 "
    "300E0005 3010004C 3010004D 30100085 40080100 40080101 40080108 40080109 40080112 40080113"
)
DESCRIPTORS = _tags(
    "00081030 0008103E 00081080 00081084 00081088 00082111 00084000 00102000 00102110 00102180 "
    "001021B0 00104000 00120051 00120072 0016002B 0016004B 00180010 00181030 001811BB 00181400 "
    "00184000 00189185 0018937B 0018937F 00189424 00189937 0018A003 00200027 00204000 00209158 "
    "00321030 00321060 00321066 00321067 00321070 00324000 00380040 00380062 00380500 00384000 "
    "003A0329 003A032B 00400007 00400254 00400275 00400280 00400310 0040051A 00400600 00400602 "
    "00401002 0040100A 00401400 00402001 00402400 00500021 006A0005 006A0006 00720066 00720068 "
    "0072006C 0072006E 00720070 04000565 22000002 30020121 30020123 30060002 30060004 30060006 "
    "30060026 30060028 30060038 30060085 30060088 300A0002 300A0003 300A0004 300A000B 300A000E "
    "300A0016 300A0072 300A00C3 300A00DD 300A0196 300A01A6 300A01B2 300A02EB 300A0608 300A0619 "
    "300A0623 300A062A 300A0676 300A067C 300A067D 300A0734 300A0742 300A0783 300A078E 300A0792 "
    "300A0794 300A079A 300C0113 3010000F 30100017 30100033 30100034 30100035 30100036 30100037 "
    "30100038 30100054 30100056 3010005A 3010005C 30100061 30100077 3010007A 3010007B 3010007F "
    "30100081 4008010B 40080115 40080300 40084000"
)
