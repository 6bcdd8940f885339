"""What became of the attributes of a study, and what a validator of another maker says of it.

A report names attributes and counts files. It has no values.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

#: dicom3tools' validator (D. Clunie), where it is installed.
_VALIDATOR = "dciodvfy"
_SECONDS = 20
_LIMITS = {resource.RLIMIT_AS: 1 << 30, resource.RLIMIT_CPU: _SECONDS, resource.RLIMIT_FSIZE: 0}
_UNENDED = "the validator did not come to an end"
#: Values in its messages are not passed on: what is in angle brackets, but for the names of
#: elements and modules, or in square ones, or behind an equals sign.
_VALUES = re.compile(r"(?<!Element=)(?<!Module=)<[^>]*>|\[[^\]]*\]| = .*$")


class Conformance:
    """Collects what is said of the files of a cohort, by study.

    Args:
        validate: Ask the validator too. It runs outside the sandbox of decoders.
    """

    def __init__(self, validate: bool = False) -> None:
        self._validator = shutil.which(_VALIDATOR) if validate else None
        self._asked = validate
        self._files: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter()
        self._outcomes: dict[str, dict[str, Counter[str]]] = defaultdict(
            lambda: defaultdict(Counter)
        )
        self._findings: dict[str, Counter[str]] = defaultdict(Counter)

    def add(self, study: str, data: bytes, outcomes: Mapping[str, tuple[str, ...]]) -> None:
        """One DICOM file of a study."""
        self._files[study] += 1
        for outcome, names in outcomes.items():
            self._outcomes[study][outcome].update(names)
        if self._validator is not None:
            self._findings[study].update(findings(self._validator, data))

    def leave_out(self, study: str) -> None:
        """A document that belongs to the study and stays here."""
        self._left_out[study] += 1

    def report(self) -> list[dict[str, Any]]:
        """A dictionary a study, ready for JSON: numbers of files by attribute."""
        return [
            {
                "study": study,
                "files": self._files[study],
                "documents_left_out": self._left_out[study],
                **{
                    outcome: dict(sorted(self._outcomes[study][outcome].items()))
                    for outcome in ("removed", "changed", "kept")
                },
                "validator": _VALIDATOR if self._validator else None,
                "findings": dict(sorted(self._findings[study].items())),
            }
            for study in sorted({*self._files, *self._left_out})
        ]


def findings(program: str, data: bytes) -> set[str]:
    """Errors that the validator names in a file, without values; it reads from memory.

    Returns:
        Sentences; one that says so where it did not come to an end.
    """
    held = os.memfd_create("validated")
    try:
        with os.fdopen(held, "w+b") as file:
            file.write(data)
            file.flush()
            file.seek(0)
            done = subprocess.Popen(  # noqa: S603 - a fixed program on a file without a name
                [program],
                stdin=file,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env={"LC_ALL": "C"},
            )
            with done:
                try:
                    for limit, most in _LIMITS.items():
                        resource.prlimit(done.pid, limit, (most, most))
                    said = done.communicate(timeout=_SECONDS)[1]
                except (OSError, subprocess.SubprocessError):
                    done.kill()
                    return {_UNENDED}
    except OSError:
        return {_UNENDED}
    lines = said.decode("utf-8", "replace").splitlines()
    found = {_VALUES.sub("", line).strip()[:200] for line in lines if line.startswith("Error")}
    return found if done.returncode >= 0 else {*found, _UNENDED}
