"""The OpenAPI document against the running routes: no server error, no undocumented answer."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import hypothesis
import pytest
import schemathesis
from hypothesis import strategies
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

import api
from engine import Role
from tests.rest import Hospital, hospital, mounted_app

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
DOCUMENT = {**api.app.openapi(), "servers": [{"url": "/api"}]}
LABELS = {f"{method.upper()} {path}" for path, of in DOCUMENT["paths"].items() for method in of}
#: Ends the session that asks; the table of permissions tests it.
ENDING = {"DELETE /auth/sessions/"}
#: Made by the first route that is asked.
KEPT: dict[str, str] = {}


@functools.cache
def operations() -> dict[str, schemathesis.APIOperation]:
    schema = schemathesis.openapi.from_dict(DOCUMENT)
    schema.app = mounted_app
    return {o.ok().label: o.ok() for o in schema.get_all_operations()}


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    folder = tmp_path_factory.mktemp("contract")
    with hospital(folder, checkpoint_dir=folder / "checkpoints") as place:
        place.engine.models.about()  # the networks are there, as in a server that is ready
        yield place


def things(ward: Hospital, label: str) -> dict[str, str]:
    """A patient and an image that are there; of its own for a route that uses them up."""
    used_up = label.startswith("DELETE") or label.endswith("/flag/")
    if KEPT and not used_up:
        return KEPT
    patient_id = ward.patient()
    made = {"patient_id": patient_id, "image_id": ward.image(patient_id)}
    if not used_up:
        KEPT.update(made)
    return made


def test_every_route_is_in_the_document() -> None:
    assert set(operations()) == LABELS
    assert set(DOCUMENT["paths"]) <= set(api.paths())
    assert len(LABELS) > 60


@pytest.mark.parametrize("label", sorted(LABELS - ENDING))
def test_no_answer_is_an_error_of_the_server_or_undocumented(ward: Hospital, label: str) -> None:
    operation = operations()[label]
    names = things(ward, label)
    tokens = [ward.tokens[r] for r in (Role.TECHNICIAN, Role.DOCTOR, Role.ADMINISTRATOR)]

    right = operation.as_strategy()
    wrong = operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)

    @hypothesis.settings(
        max_examples=6,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=right | wrong, real=strategies.booleans())
    def probe(case: schemathesis.Case, real: bool) -> None:
        for token in tokens:
            if real:  # else nearly every answer is that there is no such thing
                case.path_parameters.update(
                    {n: v for n, v in names.items() if n in case.path_parameters}
                )
            headers = {"Authorization": f"Bearer {token}"}
            case.call_and_validate(headers=headers, checks=CHECKS, timeout=300)

    probe()
