"""Drift by month is counted in the database: the same as counted here, image by image."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from statistics import median
from typing import Any

import scipy

from engine.detect.drift import Month
from engine.host import Host
from engine.operations.monthly_drift import SMALLEST_GROUP, monthly_drift
from engine.store.database import Cursor, Database
from engine.store.figures import Figures
from tests.store.conftest import Opener

_ACTIONS = {  # and their weights
    "image.upload": 6, "image.look": 3, "image.seal": 1, "image.withdraw": 1, "box.add": 1,
    "box.remove": 1, "box.change": 1,
}  # fmt: skip
_BOXES = ("box.add", "box.remove", "box.change")


def fill(tx: Cursor, images: int, seed: int) -> None:
    """Images, a log and regions with all that the counts must tell apart."""
    rng = random.Random(seed)
    first = datetime(2025, 11, 1)  # noqa: DTZ001, as in the catalog
    uploads, entries, regions = [], [], []
    for number in range(images):
        image, day = f"im_{number:05d}", rng.randrange(120)
        at = first + timedelta(days=day, minutes=rng.randrange(1440))
        # The last month has patients of too small a group.
        patient = f"pt_{rng.randrange(SMALLEST_GROUP - 1 if day > 91 else 60)}"
        state = rng.choice(("draft", "review", "released", "released", "withdrawn", "erased"))
        uploads.append((image, patient, state, rng.choice(("general", "chest")), at))
        for action in rng.choices(list(_ACTIONS), _ACTIONS.values(), k=rng.randrange(8)):
            detail: dict[str, Any] = {"found": rng.randrange(40)} if rng.random() < 0.9 else {}
            if rng.random() < 0.2:
                detail["reasons"] = ["not-looked-at"]
            if rng.random() < 0.2:
                detail["why"] = rng.choice(("release-suspended", "a name was missed"))
            entries.append((image, action, rng.choice(("ok", "ok", "failed")), json.dumps(detail)))
        for _ in range(rng.randrange(6)):
            # Rows of earlier releases have confidences in full.
            sure = rng.choice((rng.random(), 0.25, 0.75, 1.0))
            regions.append((f"rg_{len(regions)}", image, sure, rng.choice(("ppocr", "person"))))
    entries.append(("", "image.look", "ok", "{}"))
    entries.append(("im_unknown", "box.add", "ok", "{}"))
    rng.shuffle(entries)
    tx.run(
        "INSERT INTO images (image_id, patient_id, state, version, format, modality, profile,"
        " width, height, frames, size_bytes, stored_bytes, uploaded_at, uploaded_by, reasons,"
        " region_count, times_ms) SELECT unnest($1::VARCHAR[]), unnest($2::VARCHAR[]),"
        " unnest($3::VARCHAR[]), 1, 'PNG', 'CT', unnest($4::VARCHAR[]), 8, 8, 1, 1, 1,"
        " unnest($5::TIMESTAMP[]), 'a', '[]', 1, '{}'",
        *map(list, zip(*uploads, strict=True)),
    )
    tx.run(
        "INSERT INTO audit SELECT unnest($5::BIGINT[]), '', 'a', 'technician',"
        " unnest($2::VARCHAR[]), unnest($3::VARCHAR[]), '', unnest($1::VARCHAR[]), '', '', '',"
        " unnest($4::VARCHAR[]), ''",
        *map(list, zip(*entries, strict=True)),
        list(range(1, len(entries) + 1)),
    )
    tx.run(
        "INSERT INTO regions SELECT unnest($1::VARCHAR[]), unnest($2::VARCHAR[]), 0, 'text',"
        " unnest($3::DOUBLE[]), unnest($4::VARCHAR[]), 0, 0, 8, 8, 0, 1, 0, 1, 1.0",
        *map(list, zip(*regions, strict=True)),
    )


def counted_here(tx: Cursor) -> dict[tuple[str, str], dict[str, Any]]:
    """Months of enough patients: every row is read, and numbers are kept one by one."""
    of, people, found = {}, {}, {}  # type: ignore[var-annotated]
    for row in tx.all("SELECT image_id, patient_id, profile, uploaded_at, state FROM images"):
        if row["state"] != "erased":
            of[row["image_id"]] = key = (f"{row['uploaded_at']:%Y-%m}", row["profile"])
            people.setdefault(key, set()).add(row["patient_id"])
    for key, patients in people.items():
        if len(patients) >= SMALLEST_GROUP:
            found[key] = {"boxes": [], "confidences": [], "entries": Counter()}
            found[key] |= {"corrected": set(), "flagged": set()}
    for row in tx.all("SELECT image_id, action, outcome, detail FROM audit ORDER BY sequence"):
        month, detail = found.get(of.get(row["image_id"])), json.loads(row["detail"])
        if month is None or row["outcome"] != "ok" or detail.get("why") == "release-suspended":
            continue
        if row["action"] == "image.look" or (
            row["action"] == "image.upload" and "reasons" not in detail
        ):
            month["boxes"].append(detail.get("found", 0))
        elif row["action"] in _BOXES:
            month["entries"][row["action"]] += 1
            month["corrected"].add(row["image_id"])
        elif row["action"] == "image.withdraw":
            month["flagged"].add(row["image_id"])
    for row in tx.all("SELECT image_id, confidence, source FROM regions"):
        month = found.get(of.get(row["image_id"]))
        if month is not None and row["source"] != "person":
            month["confidences"].append(math.floor(row["confidence"] * 4) / 4)
    return found


def chances(before: Sequence[dict[str, Any]], now: dict[str, Any]) -> list[float]:
    """By scipy, of values one by one."""
    tests = [
        scipy.stats.ks_2samp([v for m in before for v in m[of]], now[of]).pvalue
        for of in ("boxes", "confidences")
    ]
    images, here = sum(len(m["boxes"]) for m in before), len(now["boxes"])
    for many in (lambda m: len(m["corrected"]), lambda m: len(m["flagged"])):
        then = sum(map(many, before))
        table = [[many(now), here - many(now)], [then, images - then]]
        tests.append(scipy.stats.fisher_exact(table, alternative="greater").pvalue)
    return list(map(float, tests))


def filled(open_database: Opener, host: Host, images: int) -> Database:
    database = open_database(host)
    with database.write() as tx:
        fill(tx, images, seed=images)
    return database


def test_months_counted_by_the_database_are_those_counted_one_by_one(
    open_database: Opener, host: Host
) -> None:
    database = filled(open_database, host, 900)
    expected = counted_here(database.read())
    drifts = monthly_drift(Figures(database))
    assert len(expected) == 6  # three months of two profiles; the fourth has too few patients
    assert {(d.month.month, d.month.profile) for d in drifts} == set(expected)
    for drift in drifts:
        month = drift.month
        one = expected[month.month, month.profile]
        assert month == Month(
            month.month,
            month.profile,
            Counter(one["boxes"]),
            Counter(one["confidences"]),
            *(one["entries"][action] for action in _BOXES),
            corrected=len(one["corrected"]),
            flagged=len(one["flagged"]),
        )
        assert month.images == len(one["boxes"])
        assert month.boxes_per_image == sum(one["boxes"]) / len(one["boxes"])
        assert month.median_confidence == median(one["confidences"])
        before = [
            counts for (name, profile), counts in expected.items()
            if profile == month.profile and name < month.month
        ]  # fmt: skip
        assert [s.p for s in drift.shifts] == (chances(before, one) if before else [])


def test_an_empty_catalog_has_no_months(open_database: Opener, host: Host) -> None:
    assert monthly_drift(Figures(open_database(host))) == []
