"""One image: sealed or side by side with its original, with metrics, notes and history."""

from __future__ import annotations

from datetime import UTC
from typing import Any

import streamlit as st

from engine import Format, ImageRecord, Permission, Restoration, Study, StudyRestoration, errors
from ui import care, send, state, step_up, studies, widgets
from ui.patient_banner import patient_banner


def open_image(image_id: str) -> None:
    """Show this image."""
    st.query_params["image"] = image_id


def _close(token: str, image_id: str, study: Study | None) -> None:
    """Forget what this session has open of an image, and of its study."""
    if state.engine().sessions.may(token, Permission.RESTORE):
        _close_image(token, image_id)
        for opened in _open_studies(token, study):
            state.engine().studies.close(token, opened.handle)
    state.take("restored")


def _close_image(token: str, image_id: str) -> None:
    restored = state.engine().images.open_restoration(token, image_id)
    if restored is not None:
        state.engine().images.close(token, restored.handle)


def _open_studies(token: str, study: Study | None, image_id: str = "") -> list[StudyRestoration]:
    """What this session has restored of a study, or those that hold this image."""
    if study is None:
        return []
    found = state.engine().studies.restorations(token, study.study_id)
    held = [(opened, [image.image_id for image in opened.images]) for opened in found]
    return [opened for opened, ids in held if image_id in ("", *ids)]


# --- view -------------------------------------------------------------------------------------


def show(token: str, image_id: str) -> None:
    """Show one image: sealed, or side by side with the original once restored."""
    try:
        record = state.engine().images.get(token, image_id)
        study = studies.study_of(token, image_id)
    except errors.NotFound:
        st.query_params.pop("image", None)
        raise
    back = "Back to the study" if "study" in st.query_params else "Back to the list"
    if st.button(back, icon=":material/arrow_back:"):
        _close(token, image_id, None if "study" in st.query_params else study)
        st.query_params.pop("image", None)
        st.rerun()
    patient = state.engine().patients.get(token, record.patient_id)
    patient_banner(patient, study)
    st.caption(
        f"{record.modality or record.format} {record.width}×{record.height}"
        + (f", {record.frames} frames" if record.frames > 1 else "")
        + f" · uploaded {widgets.when(record.uploaded_at)}"
        + f" · sealed {widgets.when(record.sealed_at)} · version {record.version}"
    )
    if record.format == Format.DOCUMENT:
        st.info(
            "This is a document of the study without a picture, sealed whole. Restore it, and"
            " download the original.",
            icon=":material/description:",
        )
    step = studies.through_series(study, record)
    if step:
        if not _is_restored(token, study, step):
            _close(token, image_id, None)
        open_image(step)
        st.rerun()
    restored = _restored(token, study, image_id)
    if restored is None:
        images = state.engine().images
        orientation = images.display(token, image_id).orientation
        view = widgets.sealed_view(record, images.regions(token, image_id), orientation)
        view["sides"] = _sides(token, image_id, view)
        widgets.viewer(view, f"viewer-{image_id}")
        if state.engine().sessions.may(token, Permission.RESTORE):
            _ask(token, study, image_id)
        _downloads(token, study, record, None)
    else:
        _proof(restored)
        view = _comparison(restored)
        view["sides"] = _sides(token, image_id, view)
        widgets.viewer(view, f"viewer-{restored.handle}")
        _downloads(token, study, record, restored)
        _numbers(restored)
    send.send(token, image_id)
    care.record(token, patient)
    _notes(token, record)
    care.team(token, patient)
    _more(token, record)


def _sides(token: str, image_id: str, view: dict[str, Any]) -> list[dict[str, Any]]:
    """Side markers under boxes, by box number; only for accounts that can restore."""
    if not state.engine().sessions.may(token, Permission.RESTORE):
        return []
    numbers = {region["id"]: region["number"] for region in view["regions"]}
    markers = state.engine().images.side_markers(token, image_id)
    return [{"number": numbers[region], "side": side} for region, side in markers]


def _is_restored(token: str, study: Study | None, image_id: str) -> bool:
    may = state.engine().sessions.may(token, Permission.RESTORE)
    return may and bool(_open_studies(token, study, image_id))


def _restored(token: str, study: Study | None, image_id: str) -> Restoration | None:
    """What this session has open of an image, by itself or as part of its study."""
    if not state.engine().sessions.may(token, Permission.RESTORE):
        return None
    restored = state.engine().images.open_restoration(token, image_id)
    if restored is None:
        for opened in _open_studies(token, study, image_id)[:1]:
            with widgets.banner():
                restored = state.engine().studies.open_image(token, opened.handle, image_id)
    if restored is None and state.take("restored") == image_id:
        st.info(
            "The restoration has ended. Restore the image again to see the original.",
            icon=":material/timer_off:",
        )
    elif restored is not None:
        state.keep("restored", image_id)
    return restored


def _ask(token: str, study: Study | None, image_id: str) -> None:
    engine = state.engine()
    scopes = studies.scopes(study, image_id)
    with st.form("restore", border=True), widgets.banner(), step_up.step_up_prompt():
        reason = st.text_input(
            "Why do you need to see the original?",
            placeholder="e.g. reading for the tumour board",
            help="Logged with your name before anything is decrypted.",
        )
        scope = "image"
        if len(scopes) > 1:
            scope = st.radio(
                "Restore", list(scopes), format_func=scopes.__getitem__, horizontal=True
            )
        if st.form_submit_button(
            "Restore the original", type="primary", icon=":material/lock_open:"
        ):
            with st.spinner("Decrypting and verifying …"):
                if scope == "image" or study is None:
                    engine.images.restore(token, image_id, reason)
                else:
                    series_id = "" if scope == "study" else scope
                    engine.studies.restore(token, study.study_id, reason, series_id)
            st.rerun()
        one, several = engine.settings.restore_minutes, engine.settings.study_restore_minutes
        st.caption(
            f"The original stays open for {one:g} minutes, in this session only."
            + (f" A series or study stays open for {several:g} minutes." if len(scopes) > 1 else "")
        )


def _proof(restored: Restoration) -> None:
    if restored.partial:
        st.warning(
            f"Partly restored: {len(restored.opened)} of {len(restored.regions)} regions are open."
            f" Your account cannot open these classes: {', '.join(restored.withheld)}. They stay"
            " sealed, so this is not the whole original. Every pixel outside the sealed regions"
            + (
                f" and {restored.margin_px} px around them, but for blocks of a JPEG that reach"
                " beyond its edge,"
                if restored.margin_px
                else ""
            )
            + " has the same stored value as in the original, verified. What is shown is a"
            " rendering of these values.",
            icon=":material/lock:",
        )
        return
    more = " The file is identical byte for byte." if restored.proof == "bytes" else ""
    st.success(
        "The stored pixels are identical to those of the original, verified by SHA-256."
        f"{more} The pictures shown and downloaded as PNG or JPEG are renderings of them."
        f"  \n`{restored.digest}`",
        icon=":material/verified:",
    )


def _comparison(restored: Restoration) -> dict[str, Any]:
    """Viewer data for both pictures."""
    orientation = int(restored.properties.get("orientation", 1))
    view = widgets.sealed_view(restored.record, restored.regions, orientation)
    measured = list(restored.assessment.regions) if restored.assessment else []
    for place, (row, region) in enumerate(zip(view["regions"], restored.regions, strict=True)):
        numbers = measured[place] if place < len(measured) else {}
        row["cells"] = [
            widgets.number(numbers.get("entropy_before_bits")),
            widgets.number(numbers.get("entropy_after_bits")),
            f"{region.encrypt_ms:g}",
            widgets.number(restored.decrypt_ms.get(region.region_id), 1),
            widgets.size(region.size_bytes),
        ]
    view.update(
        id=restored.handle,
        title="Sealed and original image",
        original=f"/api/restorations/{restored.handle}/frames/{{frame}}",
        opened="Opened regions" if restored.partial else "Original",
        window=widgets.windows(restored.record, restored.properties.get("windows", ())),
        expires=restored.expires_at.replace(tzinfo=UTC).timestamp() * 1000,
        columns=["Entropy before", "after (bit/byte)", "Encrypted (ms)", "Decrypted (ms)", "Size"],
    )
    return view


def _downloads(
    token: str, study: Study | None, record: ImageRecord, restored: Restoration | None
) -> None:
    document = record.format == Format.DOCUMENT
    with st.container(horizontal=True):
        if state.engine().sessions.may(token, Permission.EXPORT):
            st.link_button(
                "Neutral picture" if document else "Sealed file",
                f"/api/images/{record.image_id}/file",
                icon=":material/lock:",
            )
        st.link_button(
            "Grid picture", f"/api/images/{record.image_id}/grid", icon=":material/grid_on:"
        )
        if restored is None:
            return
        base = f"/api/restorations/{restored.handle}/file?format="
        if not restored.partial:
            st.link_button(
                f"Original {record.format}", base + "original", icon=":material/download:"
            )
        if document:
            if st.button("Close the restoration", icon=":material/lock:"):
                _close(token, record.image_id, study)
                st.rerun()
            return
        rendering = "A rendering of the stored pixels: 8 bits, window and colours applied"
        st.link_button("PNG", base + "png", icon=":material/download:", help=f"{rendering}.")
        st.link_button(
            "JPEG", base + "jpeg", icon=":material/download:", help=f"{rendering}, with loss."
        )
        if st.button("Close the restoration", icon=":material/lock:"):
            _close(token, record.image_id, study)
            st.rerun()


def _numbers(restored: Restoration) -> None:
    """Metrics of this image, as the engine defines them."""
    a = restored.assessment
    if a is None:
        return
    with st.expander("Measurements", icon=":material/straighten:", expanded=True):
        left, right = st.columns(2)
        with left:
            st.markdown("**Entropy**, bits per byte")
            widgets.facts(
                [
                    ("Original", widgets.number(a.entropy_original_bits)),
                    ("Sealed image", widgets.number(a.entropy_masked_bits)),
                    ("Encrypted regions", widgets.number(a.entropy_sealed_bits)),
                    ("Expected for random bytes", widgets.number(a.entropy_sealed_expected_bits)),
                ]
            )
            st.markdown("**Times**, ms, of sealing as the nearest power of two")
            times = [(widgets.stage(n), f"{v:g}") for n, v in restored.record.times_ms.items()]
            widgets.facts([*times, ("Restore and verify", f"{restored.total_ms:.1f}")])
        with right:
            st.markdown("**Original compared with sealed image**")
            widgets.facts(
                [
                    ("Structural similarity (SSIM)", widgets.number(a.ssim)),
                    ("PSNR, dB", widgets.number(a.psnr_db, 1)),
                    ("Colour histogram correlation", widgets.number(a.histogram_correlation)),
                    ("Average hash distance, of 64 bits", str(a.average_hash_distance_bits)),
                    ("Perceptual hash distance, of 64 bits", str(a.perceptual_hash_distance_bits)),
                    ("Share of pixels under boxes", f"{a.masked_share:.2%}"),
                ]
            )


# --- notes and reports -------------------------------------------------------------------------


def _notes(token: str, record: ImageRecord) -> None:
    if not state.engine().sessions.may(token, Permission.READ_NOTES):
        return
    st.header("Notes")
    for note in state.engine().patients.notes(token, image_id=record.image_id):
        with st.container(border=True):
            st.caption(f"{note.author}, {widgets.when(note.written_at)}")
            st.text(note.text)
    with st.form("note", clear_on_submit=True), widgets.banner():
        text = st.text_area("New note", max_chars=10_000)
        if st.form_submit_button("Add note"):
            state.engine().patients.add_note(
                token, record.patient_id, text, image_id=record.image_id
            )
            st.rerun()


def _question(token: str, record: ImageRecord) -> None:
    """Ask for a smaller box; for accounts that can restore."""
    if not state.engine().sessions.may(token, Permission.RESTORE):
        return
    with (
        st.expander("Report a box that hides what you need", icon=":material/select_all:"),
        st.form("question"),
        widgets.banner(),
        step_up.step_up_prompt(),
    ):
        reason = st.text_input("Which box, and what does it hide? Do not enter a name.")
        st.caption(
            "A technician decides about the box. Until then nobody else sees the image; it is then"
            " sealed as its next version."
        )
        if st.form_submit_button("Send the image back"):
            state.engine().withdrawals.question(token, record.image_id, reason)
            st.query_params.pop("image", None)
            state.say("The image went back to the technicians.")
            st.rerun()


def _more(token: str, record: ImageRecord) -> None:
    _question(token, record)
    with st.expander("What happened to this image", icon=":material/history:"):
        widgets.history(state.engine().images.history(token, record.image_id))
    with (
        st.expander("Report a missed region", icon=":material/flag:"),
        st.form("flag"),
        widgets.banner(),
    ):
        reason = st.text_input("What was missed? Do not enter the name itself.")
        st.caption("The image is immediately withdrawn for all users until it is sealed again.")
        if st.form_submit_button("Withdraw image"):
            state.engine().withdrawals.flag(token, record.image_id, reason)
            st.query_params.pop("image", None)
            state.say("Image withdrawn. Thank you for the report.")
            st.rerun()
