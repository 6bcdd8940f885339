"""DICOMweb over masked objects (PS3.18): QIDO-RS and WADO-RS; :mod:`api.stow` has STOW-RS.

The addresses and answers are the standard's and not in the OpenAPI document; tokens, rights, care
relations and the log are those of every route.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path, Request, Response
from fastapi.responses import JSONResponse
from PIL import Image as Picture

from api.dependencies import Reason, TheEngine, Token, needed_reason
from api.rendering import rendering
from api.turns import PAGE_TURN
from api.web_media import JSON, as_stored, multipart, refuse_other, single
from engine import Engine, MaskedObject, errors

router = APIRouter(prefix="/dicomweb", include_in_schema=False)

Uid = Annotated[str, Path(pattern=r"^[0-9.]{1,64}$")]
_MOST = 1000
_PIXELS = ("7FE00010", "7FE00008", "7FE00009")
_STUDY, _SERIES, _INSTANCE = "0020000D", "0020000E", "00080018"
_STUDY_LEVEL = frozenset(
    [
        "00080005",
        "00080020",
        "00080030",
        "00080050",
        "00080056",
        "00080061",
        "00080090",
        "00080201",
        "00081190",
        "00100010",
        "00100020",
        "00100030",
        "00100040",
        "0020000D",
        "00200010",
        "00201206",
        "00201208",
    ]
)
_SERIES_LEVEL = frozenset(
    [
        "00080005",
        "00080056",
        "00080060",
        "00080201",
        "0008103E",
        "00081190",
        "0020000D",
        "0020000E",
        "00200011",
        "00201209",
        "00400244",
        "00400245",
        "00400275",
    ]
)
_INSTANCE_LEVEL = frozenset(
    [
        "00080005",
        "00080016",
        "00080018",
        "00080056",
        "00080060",
        "00080201",
        "00081190",
        "0020000D",
        "0020000E",
        "00200013",
        "00280008",
        "00280010",
        "00280011",
        "00280100",
    ]
)
#: Answered by default (PS3.18 tables 10.6.3-3 to 10.6.3-5); all of a study's and a series' where
#: the address does not say which.
_ANSWERED = {
    "study": _STUDY_LEVEL,
    "series": _STUDY_LEVEL | _SERIES_LEVEL,
    "instance": _STUDY_LEVEL | _SERIES_LEVEL | _INSTANCE_LEVEL,
}


# --- QIDO-RS ----------------------------------------------------------------------------------


@router.get("/studies/")
def search_studies(request: Request, token: Token, engine: TheEngine) -> Response:
    return _found(request, token, engine, "study")


@router.get("/series/")
def search_all_series(request: Request, token: Token, engine: TheEngine) -> Response:
    return _found(request, token, engine, "series")


@router.get("/instances/")
def search_all_instances(request: Request, token: Token, engine: TheEngine) -> Response:
    return _found(request, token, engine, "instance")


@router.get("/studies/{study}/series/")
def search_series(study: Uid, request: Request, token: Token, engine: TheEngine) -> Response:
    return _found(request, token, engine, "series", {_STUDY: study})


@router.get("/studies/{study}/instances/")
def search_instances(study: Uid, request: Request, token: Token, engine: TheEngine) -> Response:
    return _found(request, token, engine, "instance", {_STUDY: study})


@router.get("/studies/{study}/series/{series}/instances/")
def search_instances_of_series(
    study: Uid, series: Uid, request: Request, token: Token, engine: TheEngine
) -> Response:
    return _found(request, token, engine, "instance", {_STUDY: study, _SERIES: series})


def _found(
    request: Request, token: str, engine: Engine, level: str, fixed: dict[str, str] | None = None
) -> Response:
    """The answer to a search. Raises InputError, HTTPException."""
    refuse_other(request, JSON, "application/json")
    keys: dict[str, str] = {}
    include: set[str] = set()
    warnings: list[str] = []
    limit, offset = _MOST, 0
    for name, value in request.query_params.multi_items():
        if name == "includefield":
            include |= {part.strip() for part in value.split(",")}
        elif name in ("limit", "offset"):
            if not value.isdecimal() or len(value) > 9:
                raise errors.InputError("limit and offset must be whole numbers.")
            limit, offset = (
                (min(int(value), _MOST), offset) if name == "limit" else (limit, int(value))
            )
        elif name == "fuzzymatching":
            if value.lower() == "true":
                warnings.append("The fuzzymatching parameter is not supported.")
        else:
            keys[name] = value[:1000]
    whole = "all" in include
    named = {engine.objects.tag(n) for n in (include | set(keys)) - {"all"}}
    answered = _ANSWERED[level] | named
    answers = []
    # One more than is answered, to know whether there is more.
    found = engine.objects.search(token, level, {**keys, **(fixed or {})}, limit + 1, offset)
    if len(found) > limit:
        warnings.append("There are additional results that can be requested.")
    for said in found[:limit]:
        uids = [_first(said, tag) for tag in (_STUDY, _SERIES, _INSTANCE)]
        depth = {"study": 1, "series": 2, "instance": 3}[level]
        shown = {
            tag: element
            for tag, element in said.items()
            if (whole and tag not in _PIXELS) or tag in answered
        }
        shown["00081190"] = {"vr": "UR", "Value": [_address(request, *uids[:depth])]}
        shown["00080056"] = {"vr": "CS", "Value": ["ONLINE"]}
        answers.append(dict(sorted(shown.items())))
    headers = {"Warning": ", ".join(f'299 MedSec "{w}"' for w in warnings)} if warnings else {}
    if not answers:
        return Response(status_code=204, headers=headers)
    return JSONResponse(answers, media_type=JSON, headers=headers)


# --- WADO-RS ----------------------------------------------------------------------------------


@router.get("/studies/{study}/metadata/")
def study_metadata(study: Uid, request: Request, token: Token, engine: TheEngine) -> Response:
    return _metadata(request, _objects(engine, token, study))


@router.get("/studies/{study}/series/{series}/metadata/")
def series_metadata(
    study: Uid, series: Uid, request: Request, token: Token, engine: TheEngine
) -> Response:
    return _metadata(request, _objects(engine, token, study, series))


@router.get("/studies/{study}/series/{series}/instances/{instance}/metadata/")
def instance_metadata(
    study: Uid, series: Uid, instance: Uid, request: Request, token: Token, engine: TheEngine
) -> Response:
    return _metadata(request, _objects(engine, token, study, series, instance))


@router.get("/studies/{study}/", dependencies=PAGE_TURN)
def retrieve_study(study: Uid, request: Request, token: Token, engine: TheEngine) -> Response:
    return _instances(request, token, engine, _objects(engine, token, study))


@router.get("/studies/{study}/series/{series}/", dependencies=PAGE_TURN)
def retrieve_series(
    study: Uid, series: Uid, request: Request, token: Token, engine: TheEngine
) -> Response:
    return _instances(request, token, engine, _objects(engine, token, study, series))


@router.get("/studies/{study}/series/{series}/instances/{instance}/", dependencies=PAGE_TURN)
def retrieve_instance(
    study: Uid, series: Uid, instance: Uid, request: Request, token: Token, engine: TheEngine,
    reason: Reason, original: bool = False,
) -> Response:  # fmt: skip
    """A masked object; with ``original=true`` and a reason, its original for who may restore."""
    found = _objects(engine, token, study, series, instance)
    if not original:
        return _instances(request, token, engine, found)
    kind = refuse_other(request, "application/dicom", "multipart/related")
    handle = engine.images.restore(token, found[0].image_id, needed_reason(reason)).handle
    try:
        file = engine.images.restored_file(token, handle)
    finally:
        engine.images.close(token, handle)
    if kind == "application/dicom":
        return single(request, kind, file.data)
    return multipart("application/dicom", [("application/dicom", file.data)])


@router.get(
    "/studies/{study}/series/{series}/instances/{instance}/frames/{frames}/", dependencies=PAGE_TURN
)
def retrieve_frames(
    study: Uid, series: Uid, instance: Uid, frames: str, request: Request, token: Token,
    engine: TheEngine,
) -> Response:  # fmt: skip
    """Frames of a masked object, by numbers from 1 with commas between them."""
    refuse_other(request, "multipart/related", "application/octet-stream")
    numbers = _numbers(frames)
    [found] = _objects(engine, token, study, series, instance)
    parts, syntax = engine.objects.frames(
        token, found.image_id, numbers, native=not as_stored(request, found.syntax)
    )
    kind = f"application/octet-stream; transfer-syntax={syntax}"
    return multipart("application/octet-stream", [(kind, part) for part in parts])


@router.get(
    "/studies/{study}/series/{series}/instances/{instance}/rendered/", dependencies=PAGE_TURN
)
def rendered(
    study: Uid, series: Uid, instance: Uid, request: Request, token: Token, engine: TheEngine
) -> Response:
    return _rendered(request, token, engine, _objects(engine, token, study, series, instance), 1)


@router.get(
    "/studies/{study}/series/{series}/instances/{instance}/frames/{frame}/rendered/",
    dependencies=PAGE_TURN,
)
def rendered_frame(
    study: Uid, series: Uid, instance: Uid, frame: str, request: Request, token: Token,
    engine: TheEngine,
) -> Response:  # fmt: skip
    [number] = _numbers(frame)[:1]
    found = _objects(engine, token, study, series, instance)
    return _rendered(request, token, engine, found, number)


@router.get(
    "/studies/{study}/series/{series}/instances/{instance}/thumbnail/", dependencies=PAGE_TURN
)
def instance_thumbnail(
    study: Uid, series: Uid, instance: Uid, request: Request, token: Token, engine: TheEngine
) -> Response:
    return _thumbnail(request, token, engine, _objects(engine, token, study, series, instance))


@router.get("/studies/{study}/series/{series}/thumbnail/", dependencies=PAGE_TURN)
def series_thumbnail(
    study: Uid, series: Uid, request: Request, token: Token, engine: TheEngine
) -> Response:
    return _thumbnail(request, token, engine, _objects(engine, token, study, series))


@router.get("/studies/{study}/thumbnail/", dependencies=PAGE_TURN)
def study_thumbnail(study: Uid, request: Request, token: Token, engine: TheEngine) -> Response:
    return _thumbnail(request, token, engine, _objects(engine, token, study))


@router.get(
    "/studies/{study}/series/{series}/instances/{instance}/bulkdata/{tag}/", dependencies=PAGE_TURN
)
def bulk_data(
    study: Uid, series: Uid, instance: Uid, tag: str, request: Request, token: Token,
    engine: TheEngine,
) -> Response:  # fmt: skip
    kind = refuse_other(request, "application/octet-stream", "multipart/related")
    [found] = _objects(engine, token, study, series, instance)
    value = engine.objects.bulk(token, found.image_id, tag)
    if kind == "application/octet-stream":
        return single(request, kind, value)
    return multipart("application/octet-stream", [("application/octet-stream", value)])


def _objects(
    engine: Engine, token: str, study: str, series: str = "", instance: str = ""
) -> list[MaskedObject]:
    """Masked objects that an address names. Raises NotFound."""
    found = [
        o
        for o in engine.objects.of_study(token, engine.objects.study_id(study))
        if o.uid(_STUDY) == study
        and series in ("", o.uid(_SERIES))
        and instance in ("", o.uid(_INSTANCE))
    ]
    if not found:
        raise errors.NotFound("There is no such study.")
    return found[:1] if instance else found


def _metadata(request: Request, found: Sequence[MaskedObject]) -> Response:
    refuse_other(request, JSON, "application/json")
    answers = []
    for one in found:
        address = _address(request, *(one.uid(tag) for tag in (_STUDY, _SERIES, _INSTANCE)))
        answers.append({tag: _located(address, element) for tag, element in one.header.items()})
    return JSONResponse(answers, media_type=JSON)


def _located(address: str, element: Any) -> Any:
    """An attribute with whole addresses of its bulk values, at every depth."""
    if isinstance(element, dict):
        return {
            key: f"{address}/{value}" if key == "BulkDataURI" else _located(address, value)
            for key, value in element.items()
        }
    return [_located(address, item) for item in element] if isinstance(element, list) else element


def _instances(
    request: Request, token: str, engine: Engine, found: Sequence[MaskedObject]
) -> Response:
    """Objects as they are drawn from the store, one after the other."""
    kind = refuse_other(request, "multipart/related", "application/dicom")
    if kind == "application/dicom" and len(found) > 1:
        raise HTTPException(406)

    def file(one: MaskedObject) -> bytes:
        stored = as_stored(request, one.syntax)
        return engine.objects.file(token, one.image_id, native=not stored)

    first = file(found[0])
    if kind == "application/dicom":
        return single(request, kind, first)

    def parts() -> Iterator[tuple[str, bytes]]:
        yield "application/dicom", first
        for one in found[1:]:
            yield "application/dicom", file(one)

    return multipart("application/dicom", parts())


def _rendered(
    request: Request, token: str, engine: Engine, found: Sequence[MaskedObject], number: int
) -> Response:
    kind = refuse_other(request, "image/jpeg", "image/png")
    asked = rendering(request)
    pixels = engine.images.masked_frame(token, found[0].image_id, number - 1, asked.window)
    return _picture(asked.shown(Picture.fromarray(pixels)), kind, asked.quality)


def _thumbnail(
    request: Request, token: str, engine: Engine, found: Sequence[MaskedObject]
) -> Response:
    kind = refuse_other(request, "image/jpeg", "image/png")
    small = Picture.open(io.BytesIO(engine.images.thumbnail(token, found[0].image_id)))
    return _picture(small, kind)


def _picture(picture: Picture.Image, kind: str, quality: int = 90) -> Response:
    coded = io.BytesIO()
    if kind == "image/png":
        picture.save(coded, "PNG", compress_level=1)
    else:
        picture.convert("RGB").save(coded, "JPEG", quality=quality)
    return Response(coded.getvalue(), media_type=kind)


def _numbers(text: str) -> list[int]:
    """Frame numbers from 1. Raises InputError."""
    parts = text.split(",")[:10_000]
    if not all(p.isdecimal() and len(p) < 8 and int(p) > 0 for p in parts):
        raise errors.InputError("Frames are numbers from 1, with commas between them.")
    return [int(p) for p in parts]


def _first(said: dict[str, Any], tag: str) -> str:
    return str(next(iter(said.get(tag, {}).get("Value", ())), ""))


def _address(request: Request, study: str, series: str = "", instance: str = "") -> str:
    parts = [f"{str(request.base_url).rstrip('/')}/dicomweb/studies/{study}"]
    parts += [f"series/{series}"] if series else []
    parts += [f"instances/{instance}"] if instance else []
    return "/".join(parts)
