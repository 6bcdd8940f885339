"""SECURITY.md says nothing about a test that is not there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_test_that_the_security_page_names_exists() -> None:
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", page))
    assert len(named) > 40
    defined: set[str] = set()
    for file in (ROOT / "tests").rglob("test_*.py"):
        defined |= set(re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), re.M))
    assert named - defined == set()


def guarantees() -> dict[str, str]:
    """What stands under "Guarantees", section by section."""
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    part = page.split("\n## Guarantees\n")[1].split("\n## ")[0]
    found = re.split(r"^### (.+)\n", part, flags=re.M)[1:]
    return dict(zip(found[::2], found[1::2], strict=True))


def test_every_guarantee_has_its_number_and_names_a_test() -> None:
    sections = guarantees()
    assert len(sections) >= 9
    for place, (title, text) in enumerate(sections.items(), 1):
        bullets = re.findall(r"^- (.*?)(?=^- |^\S|\Z)", text, re.S | re.M)
        assert bullets, title
        for row, bullet in enumerate(bullets, 1):
            assert bullet.startswith(f"**{place}.{row} "), bullet[:60]
            assert re.search(r"`test_\w+`", bullet), f"{place}.{row} names no test"


def test_every_section_of_guarantees_names_its_attackers() -> None:
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    attackers = re.findall(r"^\| (A\d+) \*\*", page, re.M)
    assert attackers == [f"A{n}" for n in range(1, len(attackers) + 1)]
    against = {}
    for title, text in guarantees().items():
        said = re.search(r"\AAgainst: (.*?)\.$", text.strip(), re.M)
        assert said, f"{title} does not say against whom"
        against[title] = set(re.findall(r"A\d+", said.group(1)))
        assert against[title], title
    assert set().union(*against.values()) == set(attackers)


def test_every_section_of_guarantees_says_what_it_does_not_promise() -> None:
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    part = page.split("\n## What is not promised\n")[1].split("\n## ")[0]
    limits = [title.lower() for title in re.findall(r"^### Limits: (.+)$", part, re.M)]
    assert limits == [title.lower() for title in guarantees()]


def test_every_file_that_the_security_page_names_exists() -> None:
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    for path in re.findall(r"`((?:tests|engine)/[\w./]+)`|\]\((\w+\.md)\)", page):
        assert (ROOT / "".join(path)).exists(), path


#: ASVS 5.0.0: requirements of levels 1 and 2 per section, by the last part of their numbers.
ASVS = {
    "6.1": range(1, 4), "6.2": range(1, 13), "6.3": range(1, 5), "6.4": range(1, 5),
    "6.5": range(1, 6), "6.6": range(1, 4), "6.8": range(1, 5),
    "7.1": range(1, 4), "7.2": range(1, 5), "7.3": range(1, 3), "7.4": range(1, 6),
    "7.5": range(1, 3), "7.6": range(1, 3),
    "8.1": range(1, 3), "8.2": range(1, 4), "8.3": range(1, 2), "8.4": range(1, 2),
    "9.1": range(1, 4), "9.2": range(1, 5),
    "10.1": range(1, 3), "10.2": range(1, 3), "10.3": range(1, 5), "10.4": range(1, 12),
    "10.5": range(1, 6), "10.6": range(1, 3), "10.7": range(1, 4),
    "11.1": range(1, 3), "11.2": range(1, 4), "11.3": range(1, 4), "11.4": range(1, 5),
    "11.5": range(1, 2), "11.6": range(1, 2),
    "16.1": range(1, 2), "16.2": range(1, 6), "16.3": range(1, 5), "16.4": range(1, 4),
    "16.5": range(1, 4),
}  # fmt: skip


def test_every_requirement_of_the_verification_standard_has_a_state() -> None:
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| ((?:\d+\.\d+\.\d+(?:, )?)+) \| (met|by setting|by choice|n/a) \| \S", page, re.M
    )
    listed = [number for numbers, _ in rows for number in numbers.split(", ")]
    wanted = [f"{section}.{n}" for section, numbers in ASVS.items() for n in numbers]
    assert sorted(listed) == sorted(wanted)
