"""Patients over REST: records, their images and notes, and their erasure."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, File, Form, Query, Response, UploadFile

from api import schemas
from api.dependencies import Limit, Offset, TheEngine, Token, needed_reason
from api.problems import answers
from api.turns import INTAKE_TURN
from engine import FORMATS_TAKEN

router = APIRouter(prefix="/patients", tags=["patients"])

Id = Annotated[schemas.Line, Form(max_length=50, examples=["P-1042"])]
Name = Annotated[schemas.Line, Form(max_length=100, examples=["Erika Musterfrau"])]
Age = Annotated[int | None, Form(ge=0, le=130, examples=[61])]
NoteText = Annotated[schemas.Text, Form()]
Upload = Annotated[UploadFile | None, File(description=f"{FORMATS_TAKEN}.")]
ProfileName = Annotated[
    schemas.Line | None, Form(description="Specialty; see GET /profiles/.", examples=["chest"])
]
Query_ = Annotated[str, Query(max_length=200, pattern=r"^[^\x00]*$")]

_READING = (401, 403, 404, 409, 422, 429, 503)
_WRITING = (400, *_READING, 413)


@router.post("/", dependencies=INTAKE_TURN, status_code=201, responses=answers(*_WRITING))
def create_patient(
    token: Token,
    engine: TheEngine,
    response: Response,
    id: Id,
    name: Name,
    age: Age = None,
    note: NoteText = "",
    profile: ProfileName = None,
    image: Upload = None,
) -> schemas.Admission:
    """Create a patient, optionally with a first image. Both are accepted, or neither.

    The image becomes a draft, or waits for review with the reasons for it. Only technicians see it
    until it is sealed.
    """
    if image is None:
        patient = engine.patients.create(token, id, name, age, note)
        taken = None
    else:
        data = image.file.read()
        file_name = image.filename or "unnamed"
        engine.drafts.check(token, file_name, data, profile)
        patient = engine.patients.create(token, id, name, age, note)
        taken = engine.drafts.upload(token, patient.patient_id, file_name, data, profile)
        patient = engine.patients.get(token, patient.patient_id)
    response.headers["Location"] = f"/api/patients/{patient.patient_id}/"
    return schemas.Admission(
        patient=schemas.Patient.model_validate(patient),
        image=None if taken is None else schemas.Image.model_validate(taken),
    )


@router.get("/", responses=answers(401, 403, 422, 429, 503))
def list_patients(
    token: Token, engine: TheEngine, q: Query_ = "", limit: Limit = 50, offset: Offset = 0
) -> schemas.Page[schemas.Patient]:
    """Patients, most recently changed first, or those that match `q`.

    `q` is a hospital number, or the first three or more letters of words of the name.
    """
    return schemas.Page.of(engine.patients.search(token, q, limit + 1, offset), limit, offset)


@router.get("/{patient_id}/", responses=answers(*_READING))
def read_patient(patient_id: str, token: Token, engine: TheEngine) -> schemas.Patient:
    """One patient, by opaque id or hospital number. Prefer the id, because URLs get logged."""
    return schemas.Patient.model_validate(engine.patients.get(token, patient_id))


@router.patch("/{patient_id}/", responses=answers(*_WRITING))
def change_patient(
    patient_id: str, change: schemas.PatientChange, token: Token, engine: TheEngine
) -> schemas.Patient:
    """Change the given fields; the previous version is kept in the history."""
    key = engine.patients.resolve(patient_id)
    changes = change.model_dump(exclude_unset=True)
    return schemas.Patient.model_validate(engine.patients.update(token, key, **changes))


@router.delete("/{patient_id}/", status_code=204, responses=answers(*_WRITING))
def erase_patient(
    patient_id: str, token: Token, engine: TheEngine, reason: Annotated[str, Depends(needed_reason)]
) -> None:
    """Destroy the patient's key. Record, notes and images can never be recovered."""
    engine.patients.erase(token, patient_id, reason)


@router.get("/{patient_id}/images/", responses=answers(*_READING))
def list_images_of_patient(
    patient_id: str, token: Token, engine: TheEngine, limit: Limit = 50, offset: Offset = 0
) -> schemas.Page[schemas.Image]:
    """Released images of one patient, newest first."""
    key = engine.patients.get(token, patient_id).patient_id
    found = engine.search.images(token, None, limit + 1, offset, key)
    return schemas.Page.of(found.images, limit, offset)


@router.post(
    "/{patient_id}/images/", dependencies=INTAKE_TURN, status_code=201, responses=answers(*_WRITING)
)
def add_image(
    patient_id: str,
    token: Token,
    engine: TheEngine,
    response: Response,
    image: Annotated[UploadFile, File(description=f"{FORMATS_TAKEN}.")],
    profile: ProfileName = None,
) -> schemas.Image:
    """Upload an image of a patient; it is a draft until it is sealed."""
    key = engine.patients.get(token, patient_id).patient_id
    taken = engine.drafts.upload(
        token, key, image.filename or "unnamed", image.file.read(), profile
    )
    response.headers["Location"] = f"/api/drafts/{taken.image_id}/"
    return schemas.Image.model_validate(taken)


@router.get("/{patient_id}/history/", responses=answers(*_READING))
def read_history(patient_id: str, token: Token, engine: TheEngine) -> list[schemas.PatientVersion]:
    """Earlier versions of a record, newest first."""
    versions = engine.patients.history(token, patient_id)
    return [schemas.PatientVersion.model_validate(v) for v in versions]


@router.get("/{patient_id}/notes/", responses=answers(*_READING))
def list_notes(patient_id: str, token: Token, engine: TheEngine) -> list[schemas.Note]:
    """Notes of a patient and of their images, newest first."""
    key = engine.patients.get(token, patient_id).patient_id
    return [schemas.Note.model_validate(n) for n in engine.patients.notes(token, patient_id=key)]


@router.post("/{patient_id}/notes/", status_code=201, responses=answers(*_WRITING))
def add_note(
    patient_id: str, note: schemas.NewNote, token: Token, engine: TheEngine
) -> schemas.Note:
    """Add a note; notes cannot be changed."""
    key = engine.patients.resolve(patient_id)
    return schemas.Note.model_validate(engine.patients.add_note(token, key, note.text))
