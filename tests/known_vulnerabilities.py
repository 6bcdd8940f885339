"""Compare the pinned versions with known vulnerabilities, without a network.

``make audit DATABASE=all.zip`` takes a file that the operator brings: OSV's export of PyPI, from
https://osv-vulnerabilities.storage.googleapis.com/PyPI/all.zip, with the advisories that pip-audit
asks for over the network. Ends with 1 where a pinned version is affected.

Python packages bring native libraries along, which that database does not know. Those that read
what strangers send are listed with their versions, to be compared with their own announcements.
"""

from __future__ import annotations

import json
import re
import sys
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

ROOT = Path(__file__).parents[1]
OLD = timedelta(days=14)
USAGE = "usage: python -m tests.known_vulnerabilities DATABASE.zip (see docs/operating.md)"


@dataclass(frozen=True)
class Hit:
    """A pinned version that is affected."""

    package: str
    version: str
    id: str
    fixed: str
    summary: str


def pinned(folder: Path = ROOT) -> dict[str, str]:
    """Every ``name==version`` of the constraints and requirements."""
    found = {}
    for file in sorted([*folder.glob("constraints.txt"), *folder.glob("requirements*.txt")]):
        for name, version in re.findall(
            r"^([\w.\-]+)(?:\[[\w,]+\])?==([\w.+!]+)", file.read_text(), re.M
        ):
            found[canonicalize_name(name)] = version
    return found


def affected(entry: Mapping[str, Any], version: str) -> str | None:
    """Is a version among those of an ``affected`` entry of OSV? The version that mends it, or
    ``none yet``; None where it is not.

    Source: https://ossf.github.io/osv-schema/, "evaluation".
    """
    here = Version(version.partition("+")[0])
    hit, fixed = version in entry.get("versions", ()), "none yet"
    for span in entry.get("ranges", ()):
        if span.get("type") != "ECOSYSTEM":
            continue
        inside = False
        for event in sorted(span["events"], key=_place):
            (kind, at), *_ = event.items()
            bound = _version(at)
            if kind == "introduced" and here >= bound:
                inside = True
            elif (kind == "fixed" and here >= bound) or (kind == "last_affected" and here > bound):
                inside = False
            if kind == "fixed" and here < bound and inside and fixed == "none yet":
                fixed = at
        hit |= inside
    return fixed if hit else None


def _version(text: str) -> Version:
    try:
        return Version(text)
    except InvalidVersion:
        return Version("0")


def _place(event: Mapping[str, str]) -> tuple[Version, bool]:
    (kind, at), *_ = event.items()
    return _version(at), kind != "introduced"


def hits(database: Path, pins: Mapping[str, str]) -> Iterator[Hit]:
    """Vulnerabilities of pinned versions, in the order of the database."""
    with zipfile.ZipFile(database) as archive:
        for name in archive.namelist():
            if not name.endswith(".json"):
                continue
            record = json.loads(archive.read(name))
            if "withdrawn" in record:
                continue
            for entry in record.get("affected", ()):
                package = entry.get("package", {})
                key = canonicalize_name(package.get("name", ""))
                if package.get("ecosystem") != "PyPI" or key not in pins:
                    continue
                fixed = affected(entry, pins[key])
                if fixed is not None:
                    summary = str(record.get("summary", ""))[:100]
                    yield Hit(key, pins[key], record["id"], fixed, summary)


def newest(database: Path) -> datetime:
    """When the database was made: its youngest file."""
    with zipfile.ZipFile(database) as archive:
        return datetime(*max(i.date_time for i in archive.infolist()), tzinfo=UTC)


def native_libraries() -> dict[str, str]:
    """Native code that reads what strangers send, by package, with the versions it was built on."""
    import cv2
    import imagecodecs
    import pillow_heif
    from PIL import features

    built = dict(part.rsplit("-", 1) for part in imagecodecs.version().split(", "))
    media = cv2.getBuildInformation().split("Media I/O:")[1].split("Video I/O:")[0]
    heif = pillow_heif.libheif_info()
    return {
        "jpeglib": "libjpeg-turbo 2.1.0",  # jpeg_file.py: set_version("turbo210")
        "imagecodecs": ", ".join(
            f"{name} {built[name]}"
            for name in ("libjpeg_turbo", "charls", "openjpeg", "openjph", "libjxl", "libpng",
                         "libtiff", "libwebp", "jxrlib", "lcms2", "zlib_ng", "zstd")
        ),
        "pillow": ", ".join(
            f"{name} {features.version(name)}" for name in ("jpg_2000", "libtiff", "webp", "zlib")
        ),
        "pillow-heif": f"libheif {heif['libheif']}, {heif['decoders']['libde265']}",
        "opencv-python-headless": ", ".join(
            f"{name} {version}" for name, version in
            re.findall(r"(JPEG|PNG|TIFF|JPEG 2000): .*\(ver (?:42 - )?([\d.]+)", media)
        ),
        **{name: metadata.version(name) for name in
           ("pylibjpeg-libjpeg", "pylibjpeg-openjpeg", "pylibjpeg-rle", "zxing-cpp", "openvino")},
    }  # fmt: skip


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or not zipfile.is_zipfile(arguments[0]):
        sys.stderr.write(USAGE + "\n")
        return 2
    database, pins = Path(arguments[0]), pinned()
    made = newest(database)
    found = list(hits(database, pins))
    lines = [f"{h.package} {h.version}: {h.id} (mended in {h.fixed}) {h.summary}" for h in found]
    lines.append(f"{len(pins)} pinned packages, {len(found)} hits; the database is of {made:%F}.")
    if datetime.now(UTC) - made > OLD:
        lines.append("It is older than two weeks: bring a newer one.")
    lines += ["", "Native libraries in them, which the database does not know:"]
    lines += [f"  {package}: {versions}" for package, versions in native_libraries().items()]
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
