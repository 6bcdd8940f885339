"""Two hidden names of equal geometry, and every answer that differs between them (G11).

Two hospitals are equal to the last draw of randomness, but for what is written under the boxes, for
how sure the detector was of it, and for how long it took. Every door is opened as each role that
may not restore. Where the answers differ, they differ by declared coarse steps, or in values that
are made with a key.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import math
import re
import runpy
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image as Pillow
from streamlit.components.v2 import manifest_scanner
from streamlit.runtime.scriptrunner import script_runner
from streamlit.testing.v1 import AppTest

from engine import Detection, Region, Role, Source, Statistics
from engine.metrics import coarse_bytes, coarse_column, coarse_confidence, coarse_ms
from engine.seal import length_hiding
from tests import builders
from tests.api.test_api_permissions import MAY
from tests.fakes import FakeHost
from tests.rest import Hospital, ask, hospital
from ui import state

HOME = Path(__file__).parents[2] / "Home.py"
BOXES = (Region(8, 8, 200, 40), Region(16, 160, 208, 192))
#: Made under a key, so that nobody without it can compute them for a guess.
KEYED = {"tag", "digest", "roster"}
#: Of the machine, not of any image.
MACHINE = {"disk_free_bytes", "seconds_left", "files_per_second"}


@dataclass(frozen=True)
class Secret:
    """What is hidden, how sure of it the detector is, and how much time its work takes."""

    lines: tuple[str, str]
    confidences: tuple[float, float]
    tick_ms: float


#: One confidence in the same quarter, one in another.
SECRETS = (
    Secret(("DOE JANE", "4711"), (0.8123456789, 0.6987654321), 3.1),
    Secret(("NOWAK JANUSZ", "1998-12"), (0.9312345678, 0.8812345678), 3.9),
)


@dataclass
class Answers:
    """What one hospital said: JSON values, texts and lengths of files, by door and role."""

    values: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)
    tables: Statistics | None = None


class Slow(FakeHost):
    """A clock that goes on by the same time at every look."""

    step_ms = 1.0

    def ticks_ms(self) -> float:
        Slow.passed = getattr(Slow, "passed", 0.0) + Slow.step_ms
        return Slow.passed


def picture(secret: Secret, seed: int) -> np.ndarray:
    pixels = builders.radiograph(colour=True, seed=seed)
    for region, line in zip(BOXES, secret.lines, strict=True):
        builders.write_text(pixels, line, (region.x1 + 6, region.y1 + 6))
    return pixels


def files(secret: Secret) -> dict[str, bytes]:
    """One image of each of six patients."""
    grey = [picture(secret, n)[..., 0].copy() for n in range(6)]
    colour = [picture(secret, n) for n in range(6)]
    return {
        "a.png": builders.png(grey[0]),
        "b.png": builders.png(colour[1]),
        "c.jpg": builders.jpeg(grey[2], quality=85),
        "d.jpg": builders.jpeg(colour[3], quality=85),
        "e.png": builders.png(grey[4]),
        "f.dcm": builders.dicom(grey[5], BurnedInAnnotation="YES"),
    }


def answers_of(
    folder: Path, secret: Secret, patch: pytest.MonkeyPatch, tables: Statistics | None = None
) -> Answers:
    """Upload and seal in a new hospital, and knock at every door.

    Args:
        tables: Shown on pages in place of its own: all that a page of statistics depends on.
    """
    patch.setattr("tests.rest.FakeHost", Slow)
    # As in the tests of pages: what installed packages say of themselves is read once.
    once = functools.cache(manifest_scanner.scan_component_manifests)
    patch.setattr(manifest_scanner, "scan_component_manifests", once)
    Slow.step_ms, Slow.passed = secret.tick_ms, 0.0
    with hospital(folder) as place:
        found = [
            Detection(box, "text", sure, "net")
            for box, sure in zip(BOXES, secret.confidences, strict=True)
        ]
        place.detector.found = found
        ids = []
        for number, (name, data) in enumerate(files(secret).items()):
            patient = place.engine.patients.create(
                place.team.technician, f"P-{number}", "Erika Musterfrau", 61
            ).patient_id
            if name == "e.png":  # by a batch
                batch = place.engine.batches.work_token(place.team.technician)
                sent = _sealed_by_batch(place, batch, patient, name, data)
                ids.append(sent)
                continue
            image = place.engine.drafts.upload(place.team.technician, patient, name, data)
            view = place.engine.drafts.open(place.team.technician, image.image_id)
            drawn = [*view.detections]
            if number == 1:  # a person has made one a little larger: in the log
                wider = Region(16, 160, 224, 192)
                drawn = [
                    Detection(wider, "text", 1.0) if d.region == BOXES[1] else d for d in drawn
                ]
            place.engine.drafts.seal(place.team.technician, image.image_id, drawn)
            ids.append(image.image_id)
        place.engine.care.set_restorable_classes(
            place.team.administrator, "doctor", frozenset({"barcode"})
        )
        said = Answers()
        for image_id in (ids[1], ids[3], ids[5]):  # PNG, JPEG, DICOM
            _ask_all(place, image_id, said, of_none=image_id == ids[5])
        said.tables = place.engine.statistics.tables(place.team.researcher)
        shown = tables or said.tables
        patch.setattr(place.engine.statistics, "tables", lambda token: shown)
        _look_at_pages(place, ids[0], said, patch)
        return said


def _sealed_by_batch(place: Hospital, work: str, patient: str, name: str, data: bytes) -> str:
    [item] = list(place.engine.batches.seal(work, patient, [Source(name, lambda: data)], few=True))
    place.engine.batches.end_work(work)
    assert item.state == "sealed"
    assert item.image_id
    _check_lines(item.csv_line("e.png"), item.json_line("e.png"))
    return item.image_id


def _check_lines(as_csv: str, as_json: str) -> None:
    """The lines of a batch report hold times that are powers of two, and their sum."""
    times = json.loads(as_json)["times_ms"]
    assert times
    assert all(on_a_step(f"{stage}_ms", spent) for stage, spent in times.items())
    [line] = csv.reader(io.StringIO(as_csv))
    assert float(line[6]) == round(sum(times.values()) / 1000, 3)


def _ask_all(place: Hospital, image_id: str, said: Answers, *, of_none: bool) -> None:
    """Every address that is read, as every role that may not restore what is in the image.

    Args:
        of_none: Also those that are about no image, which are kept but once.
    """
    engine = place.engine
    regions = engine.images.regions(place.team.technician, image_id)
    record = engine.images.get(place.team.technician, image_id)
    ids = {
        "image_id": image_id,
        "patient_id": record.patient_id,
        "region_id": regions[0].region_id,
        "frame": "0",
        "table": "images",
    }
    for door in MAY:
        method, path = door.split(" ", 1)
        if method != "GET" or path in ("/metrics/", "/auth/sessions/", "/auth/key-exchange/"):
            continue
        if not of_none and "{" not in path:
            continue
        for role in Role.TECHNICIAN, Role.DOCTOR, Role.RESEARCHER, Role.ADMINISTRATOR:
            for table in ("images", "regions") if "{table}" in path else ("images",):
                where = path
                for name, value in {**ids, "table": table}.items():
                    where = where.replace(f"{{{name}}}", value)
                if "{" in where:  # of an opened draft, a restoration, a batch: nothing is open
                    continue
                answer = ask("GET", where, place.tokens[role], headers={"X-Reason": "to see"})
                key = f"{role} {where}"
                if answer.headers.get("content-type", "").startswith("application/json"):
                    said.values[key] = answer.json()
                elif answer.status_code == 200:
                    said.files[key] = answer.content


def _look_at_pages(
    place: Hospital, image_id: str, said: Answers, patch: pytest.MonkeyPatch
) -> None:
    patch.setattr(script_runner, "_mpa_v1", lambda path: runpy.run_path(path, run_name="__main__"))
    review, tables = ("2_Review", {"image": image_id}), ("3_Analytics", {})
    tabs = [("4_Admin", {"tab": tab}) for tab in ("audit", "models", "monitoring")]
    seen = {
        Role.TECHNICIAN: [("1_Upload", {}), review],
        Role.DOCTOR: [review],
        Role.RESEARCHER: [tables],
        Role.ADMINISTRATOR: [tables, *tabs],
    }
    for role, pages in seen.items():
        patch.setattr(state, "token", lambda role=role: place.team.token(role))
        for page, asked in pages:
            app = AppTest.from_file(HOME, default_timeout=30).run()
            for name, value in asked.items():
                app.query_params[name] = value
            app.switch_page(f"pages/{page}.py").run()
            assert not app.exception
            said.texts[f"{role} {page} {asked.get('tab', '')}"] = _words(app)


def _words(app: AppTest) -> list[str]:
    """All that a page sends to the browser, in words and numbers."""
    text = "\n".join(str(getattr(node, "proto", "")) for node in app._tree)
    # Arrays of charts, which are drawn from the tables: these are compared by themselves.
    text = re.sub(r"bdata[^:]*:[^,}]*", "", text)
    return re.findall(r"-?\d+(?:\.\d+)?(?:e-?\d+)?|[^\W\d]+", text)


def on_a_step(name: str, value: Any) -> bool:
    """Is this value of a field one of its declared coarse steps?"""
    if value is None:
        return True
    if name == "confidence":
        return bool(coarse_confidence(value) == value)
    if name.endswith("_ms"):
        return bool(coarse_ms(value) == value)
    if name.endswith("_bytes"):
        return bool(coarse_bytes(int(value)) == value)
    try:
        return bool(coarse_column(name, value) == value)
    except (ValueError, TypeError):
        return False


def one_class_apart(one: int, other: int) -> bool:
    """Do two sealed lengths differ by one class at most? The class is of a sum of many boxes."""
    return max(one, other) <= min(one, other) * length_hiding.STEP + 512


def differences(one: Any, other: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Fields that differ: name, and both values."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for key in one:
            of = f"{key}_ms" if name == "times_ms" else key
            yield from differences(one[key], other[key], of)
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for a, b in zip(one, other, strict=True):
            yield from differences(a, b, name)
    elif one != other:
        yield name, one, other


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Answers, Answers]]:
    with pytest.MonkeyPatch.context() as patch:
        one, other = SECRETS
        first = answers_of(tmp_path_factory.mktemp("coarse"), one, patch)
        second = answers_of(tmp_path_factory.mktemp("coarse"), other, patch, first.tables)
        yield first, second


def test_the_two_hospitals_differ_under_the_boxes_and_nowhere_else() -> None:
    for seed in range(6):
        one, other = (picture(secret, seed) for secret in SECRETS)
        free = np.ones(one.shape[:2], bool)
        for box in BOXES:
            free[box.slices[1:]] = False
            assert (one[box.slices[1:]] != other[box.slices[1:]]).any()
        assert np.array_equal(one[free], other[free])


def test_every_field_of_every_answer_differs_by_coarse_steps_only(
    both: tuple[Answers, Answers],
) -> None:
    one, other = both
    assert one.values.keys() == other.values.keys()
    assert len({key.split(" ")[1] for key in one.values}) > 40
    told = set()
    for key in one.values:
        for said in (one, other):
            _take_out_totals(said.values[key])
        for name, a, b in differences(one.values[key], other.values[key]):
            if name in KEYED or name in MACHINE:
                continue
            of_sealed = key.endswith("/system/") or "region" in key
            if of_sealed and name in ("size_bytes", "stored_bytes"):  # sums of length classes
                assert one_class_apart(a, b), (key, name, a, b)
                continue
            assert on_a_step(name, a), (key, name, a, b)
            assert on_a_step(name, b), (key, name, a, b)
            told.add(name)
    # The test sees what it should: the hospitals were not the same.
    assert {"confidence"} <= told


def _take_out_totals(answer: Any) -> None:
    """Totals are sums of the coarse columns, and nothing else."""
    if isinstance(answer, dict) and "totals" in answer:
        totals = answer.pop("totals")
        for name, column in (("original_bytes", "size_bytes"), ("stored_bytes",) * 2):
            assert totals[name] == sum(row[column] for row in answer["images"])


def test_every_file_that_leaves_is_the_same_or_differs_by_coarse_steps(
    both: tuple[Answers, Answers],
) -> None:
    one, other = both
    assert one.files.keys() == other.files.keys()
    for key, data in one.files.items():
        if key.endswith("/package/"):
            _same_package(data, other.files[key])
        elif "/statistics/" in key:
            _same_table(data, other.files[key])
        elif key.endswith("/audit/file/"):
            _same_log(data, other.files[key])
        elif key.endswith("/grid/"):
            shown, seen = (np.asarray(Pillow.open(io.BytesIO(d))) for d in (data, other.files[key]))
            # Without the table below the picture, which has coarse confidences.
            assert np.array_equal(shown[:240], seen[:240])
        else:  # masked files, frames, thumbnails
            assert data == other.files[key], key


def _same_package(one: bytes, other: bytes) -> None:
    heads, sealed = [], []
    for package in (one, other):
        end = 9 + int.from_bytes(package[5:9], "big")
        heads.append(json.loads(package[9:end]))
        sealed.append(len(package) - end)
    assert one_class_apart(*sealed), sealed
    for name, a, b in differences(*heads):
        if name in ("start", "size_bytes"):  # places of pieces of one length class
            assert one_class_apart(a, b), (name, a, b)
            continue
        assert name == "facts" or (name == "confidence" and on_a_step(name, a)), (name, a, b)
        assert name != "facts" or len(a) == len(b)


def _same_table(one: bytes, other: bytes) -> None:
    tables = [pd.read_csv(io.BytesIO(data)).to_dict("records") for data in (one, other)]
    for name, a, b in differences(*tables):
        if not (isinstance(a, float) and math.isnan(a) and math.isnan(b)):
            assert on_a_step(name, a), (name, a, b)
            assert on_a_step(name, b), (name, a, b)


def _same_log(one: bytes, other: bytes) -> None:
    logs = [list(csv.DictReader(io.StringIO(data.decode()))) for data in (one, other)]
    for a, b in zip(*logs, strict=True):
        for name in a:
            if name in KEYED:
                continue
            if name == "detail":
                for field_, x, y in differences(json.loads(a[name]), json.loads(b[name])):
                    assert field_ in KEYED or on_a_step(field_, x), (a["action"], field_, x, y)
                    assert field_ in KEYED or on_a_step(field_, y), (a["action"], field_, x, y)
            else:
                assert a[name] == b[name], (a["action"], name)


def test_every_page_says_the_same_or_differs_by_coarse_steps(
    both: tuple[Answers, Answers],
) -> None:
    one, other = both
    differ = set()
    for key, words in one.texts.items():
        seen = other.texts[key]
        assert len(words) == len(seen), key
        differ |= {(key, a, b) for a, b in zip(words, seen, strict=True) if a != b}
    for key, a, b in differ:
        assert re.fullmatch(r"[0-9a-f]{8,}|[a-z]+\d*", a) is None, (key, a, b)
        assert any(on_a_step(name, float(a)) and on_a_step(name, float(b)) for name in
                   ("confidence", "x_ms", "x_bytes")), (key, a, b)  # fmt: skip


def test_no_answer_has_an_exact_confidence(both: tuple[Answers, Answers]) -> None:
    digits = [f"{sure:.10f}"[2:8] for secret in SECRETS for sure in secret.confidences]
    for said in both:
        everything = json.dumps([said.values, said.texts])
        everything += "".join(data.decode("latin-1") for data in said.files.values())
        assert len(everything) > 500_000
        assert not [found for found in digits if found in everything]


def test_times_of_calls_reach_the_monitoring_as_powers_of_two(
    both: tuple[Answers, Answers],
) -> None:
    from engine.operations import prometheus

    text = prometheus.text({}, {}, {}).decode()
    sums = re.findall(r"^medsec_\w+_seconds_sum\{[^}]*\} (\S+)$", text, re.MULTILINE)
    assert len(sums) > 20
    for value in sums:
        assert abs(float(value) * 1000 - round(float(value) * 1000)) < 1e-6, value


@pytest.mark.parametrize(
    ("value", "step"), [(0.0, 0.0), (0.249, 0.0), (0.25, 0.25), (0.999, 0.75), (1.0, 1.0)]
)
def test_a_confidence_has_four_steps_below_a_persons_own(value: float, step: float) -> None:
    assert coarse_confidence(value) == step


def test_sizes_and_times_have_few_steps_and_keep_them() -> None:
    assert len({coarse_bytes(n) for n in range(10_000, 20_001)}) == 3
    assert len({coarse_ms(n / 10) for n in range(1, 10_000)}) == 11
    for n in range(3000):
        assert n <= coarse_bytes(n) <= max(2, 1.5 * n)
        assert coarse_bytes(coarse_bytes(n)) == coarse_bytes(n)
        assert coarse_ms(coarse_ms(n / 7)) == coarse_ms(n / 7)
    with pytest.raises(ValueError, match="no coarse steps"):
        coarse_column("a_new_column", 0.123)
