"""Image search: filters kept in the URL, and pages of thumbnails, one for each series."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, datetime, time, timedelta
from typing import Any

import streamlit as st

from engine import Found, ImageQuery, ImageState, Patient, Permission, SeriesPage
from ui import care, cohort, review, state, studies, study_page, widgets
from ui.patient_banner import person
from ui.query_params import asked, asked_day, tell

PAGE = 12
_SURE = (0, 100)
#: Value in the URL: label, image states, and the permission needed to search for them.
_STATES: dict[str, tuple[str, tuple[ImageState, ...], Permission]] = {
    "sealed": ("Sealed", (ImageState.RELEASED,), Permission.VIEW_MASKED),
    "doubt": ("Sealed in doubt", (ImageState.RELEASED,), Permission.VIEW_MASKED),
    "waiting": ("Waiting", (ImageState.DRAFT, ImageState.REVIEW), Permission.UPLOAD),
    "withdrawn": ("Withdrawn", (ImageState.WITHDRAWN,), Permission.RESTORE),
}


def search(token: str) -> None:
    """The filters, and one page of matching images, or the studies of one patient."""
    engine = state.engine()
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    # A widget that was not shown, because an image was, has forgotten what it held.
    st.session_state.setdefault("review-query", state.recall("searched", ""))
    query = left.text_input(
        "Patient", type="search", placeholder="Number or name", key="review-query"
    )
    state.keep("searched", query or "")
    kinds = {k: v for k, v in _STATES.items() if engine.sessions.may(token, v[2])}
    kind = (
        _choice("State", "state", list(kinds), lambda k: kinds[k][0], right, empty="Sealed")
        or "sealed"
    )
    wanted: dict[str, Any] = {"states": kinds[kind][1], "text": query or ""}
    if kind == "doubt":
        wanted["reason"] = "small-doubt"
    wanted |= _filters(token)
    patient_id = _patient(token, query or "")
    if patient_id and kind == "sealed" and not _narrowed():
        chosen = studies.studies(token, patient_id)
        if chosen is not None:
            if any(chosen):
                study_page.open_study(*chosen)
                st.rerun()
            every = ImageQuery(**wanted)
            page = engine.search.series(token, every, PAGE, 0, patient_id)
            cohort.hand_over(token, every, patient_id, page)
            return
    skipped = _skipped({**wanted, "patient_id": patient_id})
    asked_for = ImageQuery(**wanted)
    found: Found | SeriesPage
    if kind == "sealed":
        found = engine.search.series(token, asked_for, PAGE, skipped, patient_id)
        seen = found.seen
    else:
        found = engine.search.images(token, asked_for, PAGE, skipped, patient_id)
        seen = len(found.images)
    if not seen and skipped:
        _turn(0)
    if not seen:
        what = "sealed" if kind == "sealed" else kinds[kind][0].lower()
        st.info(
            f"No {what} image matches. Change the search or the filters.",
            icon=":material/search_off:",
        )
        care.emergency_form(token, (query or "").strip())
        return
    if isinstance(found, SeriesPage):
        image_id = _series(token, found)
    else:
        image_id = _shown(token, kind, found)
    _pager(skipped, seen, found)
    if asked_for.states == (ImageState.RELEASED,):
        cohort.hand_over(token, asked_for, patient_id, found)
    if image_id:
        review.open_image(image_id)
        st.rerun()


def names(token: str, patient_ids: Sequence[str]) -> dict[str, str]:
    """Labels of patients, by id."""
    only = list(dict.fromkeys(patient_ids))
    found = state.engine().patients.search(token, only=only, limit=len(only)) if only else []
    return {p.patient_id: name(p) for p in found}


def name(patient: Patient) -> str:
    """Number and name."""
    return f"{patient.id} · {person(patient.name)}"


# --- filters -------------------------------------------------------------------------


def _patient(token: str, query: str) -> str | None:
    """The chosen patient: from the URL, or from the patients that match the search text."""
    key = asked("patient")
    if key:
        known = names(token, [key])
        if not known:
            tell("patient", None)
            st.rerun()
        label = f"Only {widgets.plain(known[key])}: show all patients"
        if st.button(label, key="every-patient", icon=":material/close:"):
            tell("patient", None)
            st.rerun()
        return key
    matching = state.engine().patients.search(token, query, limit=20) if query.strip() else []
    if len(matching) > 1:
        by_id = {p.patient_id: name(p) for p in matching}
        chosen = st.pills(
            "Several patients match. Choose one:", list(by_id), format_func=by_id.__getitem__,
            key="review-one-of",
        )  # fmt: skip
        if chosen:
            tell("patient", chosen)
            st.rerun()
    if len(matching) != 1:
        return None
    st.markdown(f"**{widgets.plain(name(matching[0]))}**")
    return matching[0].patient_id


def _filters(token: str) -> dict[str, Any]:
    """All filters except the patient, in an expander."""
    used = _narrowed()
    label = "More filters" + (f": {len(used)} set" if used else "")
    # The label changes, so the key identifies the expander.
    with st.expander(label, icon=":material/tune:", key="review-filters"):
        choices = state.engine().search.choices(token)
        labels = sorted({c for p in state.engine().profiles.by_name().values() for c in p.classes})
        first, second, third = st.columns(3)
        kinds = ["picture" if m == "" else m for m in choices.modalities]
        modality = _choice("Modality", "modality", kinds, str, first)
        label_ = _choice("Sealed class", "class", labels, str, second)
        by = _choice("Uploaded by", "by", list(choices.uploaders), str, third)
        since, until = _day("From", "from", first), _day("To", "to", second)
        sure = _sure(third)
    return {
        "modality": {"picture": "", None: None}.get(modality, modality),
        "label": label_,
        "uploaded_by": by,
        "confidence": sure,
        "since": since and datetime.combine(since, time()),
        "until": until and datetime.combine(until + timedelta(days=1), time()),
    }


def _narrowed() -> list[str]:
    """Filters that are set beside patient and state."""
    return [n for n in ("modality", "class", "from", "to", "sure", "by") if asked(n)]


def _choice(
    label: str, name: str, options: Sequence[str], show: Callable[[str], str], where: Any,
    empty: str = "Any",
) -> str | None:  # fmt: skip
    before = asked(name)
    chosen: str | None = where.selectbox(
        label,
        options,
        index=options.index(before) if before in options else None,
        format_func=show,
        placeholder=empty,
        key=f"review-{name}",
    )
    tell(name, chosen)
    return chosen


def _day(label: str, name: str, where: Any) -> date | None:
    chosen: date | None = where.date_input(
        label,
        asked_day(name),
        format="YYYY-MM-DD",
        key=f"review-{name}",
        help="Day of upload in UTC.",
    )
    tell(name, chosen)
    return chosen


def _sure(where: Any) -> tuple[float, float] | None:
    """Limits for the lowest confidence; None for none, so that images without regions match."""
    low, _, high = asked("sure").partition("-")
    before = _SURE
    if low.isdigit() and high.isdigit() and 0 <= int(low) <= int(high) <= 100:
        before = (int(low) // 25 * 25, int(high) // 25 * 25)
    chosen = where.slider(
        "Lowest confidence", *_SURE, before, 25, format="%d %%", key="review-sure",
        help="Lowest confidence among the regions of an image, rounded down to quarters.",
    )  # fmt: skip
    if tuple(chosen) == _SURE:
        tell("sure", None)
        return None
    tell("sure", f"{chosen[0]}-{chosen[1]}")
    return chosen[0] / 100, chosen[1] / 100


def _skipped(wanted: dict[str, Any]) -> int:
    """How many images the pages before have, as the URL says; none if the filters changed."""
    now = repr(wanted)
    if state.recall("asked-for", now) != now:
        tell("skip", None)
    state.keep("asked-for", now)
    number = asked("skip")
    return int(number) if number.isdecimal() and len(number) < 10 else 0


# --- results ---------------------------------------------------------------------------


def _series(token: str, found: SeriesPage) -> str:
    """A card for each series; one of several images opens as a study.

    Returns:
        The id of the single image that was chosen in this run, or an empty string.
    """
    called = names(token, [one.image.patient_id for one in found.series])
    of = {one.image.image_id: one for one in found.series}
    counts = {image_id: one.count for image_id, one in of.items()}
    records = [one.image for one in found.series]
    chosen = widgets.cards(records, "review", called, found.dates, counts)
    if chosen and of[chosen].count > 1:
        study_page.open_study(of[chosen].study_id, of[chosen].series_id)
        st.rerun()
    return chosen


def _shown(token: str, kind: str, found: Found) -> str:
    called = names(token, [r.patient_id for r in found.images])
    if kind in ("sealed", "doubt"):
        return widgets.cards(found.images, "review", called, found.dates)
    st.caption(
        "Not sealed yet. Open these images on the Upload page."
        if kind == "waiting"
        else "Withdrawn images are hidden from all users until you send them back on the Home page."
    )
    for record in found.images:
        with st.container(border=True):
            st.markdown(
                f"**{widgets.plain(called.get(record.patient_id, ''))}**"
                f" · {record.modality or record.format} {record.width}×{record.height}"
                f" · uploaded {widgets.when(record.uploaded_at)}"
                f" by {widgets.plain(record.uploaded_by)}"
            )
    return ""


def _pager(skipped: int, seen: int, found: Found | SeriesPage) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        if skipped and st.button("Newest", icon=":material/first_page:"):
            _turn(0)
        last = skipped + seen
        of = f"{'more than ' * found.more}{widgets.counted(found.total, 'image')}"
        st.caption(f"{skipped + 1:,} to {last:,} of {of}")
        if last < found.total and st.button("Older", icon=":material/chevron_right:"):
            _turn(last)


def _turn(skip: int) -> None:
    tell("skip", str(skip) if skip else None)
    st.rerun()
