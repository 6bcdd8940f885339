"""What the documents claim is compared with the code.

``python -m tests.test_docs`` writes the table of settings into ``docs/configuration.md``.
"""

from __future__ import annotations

import argparse
import re
import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import NoReturn
from unittest import mock

import pytest

import cli
from engine.settings import PREFIX, Settings
from engine.store.runtime_settings import CHANGEABLE

ROOT = Path(cli.__file__).parent
CONFIGURATION = ROOT / "docs" / "configuration.md"
TABLE = re.compile(r"(<!-- settings: .*? -->\n)(.*?)\n?(<!-- /settings -->)", re.S)
NOT_OURS = {".venv", "runs", "node_modules"}
#: Read from the environment, but not settings.
OTHER_VARIABLES = {"MEDSEC_CONFIG"}


def documents() -> list[Path]:
    found = [p for p in ROOT.rglob("*.md") if not NOT_OURS & set(p.relative_to(ROOT).parts)]
    assert len(found) > 12
    return sorted(found)


def prose(text: str) -> str:
    """A document without its code blocks, whose brackets are no links and whose # no headings."""
    return re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)


def anchors(text: str) -> set[str]:
    """Names of the headings as GitHub makes them."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in re.findall(r"^#+ (.+)$", prose(text), re.M):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
        name = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found.add(f"{name}-{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return found


def settings_table() -> str:
    """The table of ``docs/configuration.md``, from the settings themselves."""
    lines = ["| Variable | Default | Meaning |", "|---|---|---|"]
    for f in fields(Settings):
        default = f"`{f.default}`" if f.default not in (None, "") else ""
        unit = f" ({f.metadata['unit']})" if f.metadata["unit"] else ""
        lines.append(f"| `{PREFIX}{f.name.upper()}` | {default} | {f.metadata['help']}{unit} |")
    return "\n".join(lines)


@cache
def commands() -> Mapping[str, argparse.ArgumentParser]:
    """Every command with its own parser, from the parser that ``cli.main`` really uses."""
    used: list[argparse.ArgumentParser] = []

    def parse_args(self: argparse.ArgumentParser, *_: object) -> NoReturn:
        used.append(self)
        raise InterruptedError

    with (
        mock.patch.object(argparse.ArgumentParser, "parse_args", parse_args),
        pytest.raises(InterruptedError),
    ):
        cli.main([])
    (found,) = [a for a in used[0]._actions if isinstance(a, argparse._SubParsersAction)]
    return dict(found.choices)


def section(text: str, heading: str) -> str:
    """What stands below one heading of the third level."""
    found = re.search(rf"^### {re.escape(heading)}\n(.*?)(?=^##+ |\Z)", text, re.S | re.M)
    return found.group(1) if found else ""


def test_the_readme_is_short_enough_for_a_newcomer() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert max(map(len, lines)) < 400  # ... and not by long lines


def test_the_configuration_page_lists_every_setting_with_its_default() -> None:
    found = TABLE.search(CONFIGURATION.read_text(encoding="utf-8"))
    assert found is not None
    assert found.group(2) == settings_table(), "run: python -m tests.test_docs"


def test_the_configuration_page_says_from_when_each_change_counts() -> None:
    text = CONFIGURATION.read_text(encoding="utf-8")
    table = text.split("## Settings that change while the server runs\n")[1].split("\n## ")[0]
    said = {
        name: row[1]
        for row in re.findall(r"^\| (`.*`) \| (.*) \|$", table, re.M)
        for name in re.findall(r"`(\w+)`", row[0])
    }
    assert said == CHANGEABLE


@pytest.mark.parametrize(
    "document",
    [p for p in documents() if p.name not in ("CHANGELOG.md", "NOTES.md")],  # they tell of the past
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_documents_name_no_setting_that_does_not_exist(document: Path) -> None:
    known = {PREFIX + f.name.upper() for f in fields(Settings)} | OTHER_VARIABLES
    named = set(re.findall(rf"\b{PREFIX}[A-Z_]*[A-Z]\b", document.read_text(encoding="utf-8")))
    assert named - known == set()


@pytest.mark.parametrize("document", documents(), ids=lambda p: str(p.relative_to(ROOT)))
def test_links_in_documents_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(text)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = document.parent / path if path else document
        assert file.exists(), f"{document.name} links to {target}"
        if anchor:
            there = anchors(file.read_text(encoding="utf-8"))
            assert anchor in there, f"{document.name} links to {target}: no such heading"


@pytest.mark.parametrize(
    ("headings", "expected"),
    [
        ("# Keys\n## Keys\n", {"keys", "keys-1"}),  # the second of a name is numbered
        ("## Batch (`benchmarks/batch.py`)\n", {"batch-benchmarksbatchpy"}),  # dots, slashes go
        ("```sh\n# a comment\n```\n# A [link](x.md)\n", {"a-link"}),  # code holds no heading
        ("## ASVS 5.0.0, level 2\n", {"asvs-500-level-2"}),
    ],
)
def test_anchors_are_made_as_github_makes_them(headings: str, expected: set[str]) -> None:
    assert anchors(headings) == expected


def test_every_page_of_the_documentation_is_in_its_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        if page.name != "README.md":
            assert f"]({page.relative_to(ROOT / 'docs')})" in index


def test_the_command_line_page_describes_every_command_and_each_of_its_options() -> None:
    page = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    assert len(commands()) >= 15
    shared = {"--help", "--data", "--key", "--quiet"}  # said once for all
    assert all(option in section(page, "Options of every command") for option in shared)
    for name, parser in commands().items():
        text = section(page, name)
        said = re.search(rf"(cli\.py|medsec) {name}\b", text)
        assert said, f"docs/command-line.md has no section on {name}"
        for action in parser._actions:
            option = action.option_strings[-1] if action.option_strings else None
            if option and option not in shared:
                assert option in text, f"docs/command-line.md: {name} does not mention {option}"


def test_documents_name_no_command_that_does_not_exist() -> None:
    known = set(commands())
    for document in documents():
        if document.name not in ("CHANGELOG.md", "NOTES.md"):
            text = document.read_text(encoding="utf-8")
            named = set(re.findall(r"\bcli\.py ([a-z][a-z-]*)", text))
            assert named - known == set(), document.name


def test_every_make_target_in_documents_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.M))
    assert {"run", "test", "check"} <= targets
    seen = 0
    for document in documents():
        text = document.read_text(encoding="utf-8")
        for target in re.findall(r"(?:`|^)make ([a-z]+)", text, re.M):
            assert target in targets, f"{document.name}: make {target}"
            seen += 1
    assert seen > 10


def test_the_changelog_begins_with_the_version_that_is_built() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        version = tomllib.load(file)["project"]["version"]
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    heads = re.findall(r"^## (.*)$", text, re.M)
    if heads[0] == "[Unreleased]":  # what the next version will bring
        heads = heads[1:]
    assert re.fullmatch(rf"\[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d", heads[0])


def test_the_changelog_has_the_headings_of_keep_a_changelog_and_dates_that_go_back() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    dates = []
    for release in re.split(r"^## ", text, flags=re.M)[1:]:
        head, *parts = re.split(r"^### ", release, flags=re.M)
        if not head.startswith("[Unreleased]"):
            dates.append(re.findall(r"\d{4}-\d\d-\d\d", head)[0])
        named = [part.splitlines()[0] for part in parts]
        assert set(named) <= kinds
        assert len(set(named)) == len(named)
    assert dates == sorted(dates, reverse=True)


def test_sources_name_no_absolute_path_of_a_workplace() -> None:
    sources = [*ROOT.glob("*.py"), *(ROOT / "engine").rglob("*.py")]
    for path in [*documents(), *sources]:
        assert not re.search(r"/(work|home|root)/", path.read_text(encoding="utf-8")), path


if __name__ == "__main__":
    page = CONFIGURATION.read_text(encoding="utf-8")
    CONFIGURATION.write_text(
        TABLE.sub(lambda m: f"{m[1]}{settings_table()}\n{m[3]}", page), encoding="utf-8"
    )
