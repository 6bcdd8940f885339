"""The Profiles and Models tabs: specialties, networks and their measured quality."""

from __future__ import annotations

from typing import Any

import streamlit as st

from engine import Comparison, Evaluation, Profile, ProfileEntry
from ui import admin_versions, state, widgets

_ORIGINS = {"shipped": "as shipped", "changed": "changed here", "own": "the hospital's own"}
_NEW = "A new profile"


def profiles(token: str) -> None:
    """What each profile seals, and how; a change takes effect with the next upload."""
    engine = state.engine()
    entries = engine.profiles.entries(token)
    st.dataframe(
        {
            "Profile": list(entries),
            "Title": [e.profile.title for e in entries.values()],
            "Seals": [", ".join(e.profile.classes) for e in entries.values()],
            "Networks": [", ".join(e.profile.networks) for e in entries.values()],
            "Confidence threshold": [_thresholds(e.profile) for e in entries.values()],
            "NMS IoU": [e.profile.iou for e in entries.values()],
            "Harmless text": [e.profile.harmless_text for e in entries.values()],
            "State": [_ORIGINS[e.origin] for e in entries.values()],
        },
        hide_index=True,
    )
    chosen = st.selectbox(
        "Profile to change",
        [*entries, _NEW],
        format_func=lambda name: name if name == _NEW else entries[name].profile.title,
    )
    if chosen == _NEW:
        _edit(token, "", None)
    else:
        _edit(token, chosen, entries[chosen])


def _thresholds(profile: Profile) -> str:
    own = [f"{label} {value:g}" for label, value in sorted(profile.class_confidence.items())]
    return "; ".join([f"{profile.confidence:g}", *own])


def _edit(token: str, name: str, entry: ProfileEntry | None) -> None:
    """The form of one profile; an invalid profile shows the error and changes nothing."""
    engine = state.engine()
    networks = engine.profiles.known_networks(token)
    known = sorted({label for found in networks.values() for label in found})
    held = entry.profile if entry else engine.profiles.get("general")
    turn = f"{name}-{state.turn('profile')}"
    with st.form(f"profile-{turn}"), widgets.banner():
        if not entry:
            name = st.text_input(
                "Short name", help="Lowercase letters, digits and hyphens."
            ).strip()
        table: dict[str, Any] = {
            "title": st.text_input("Title", held.title if entry else ""),
            "description": st.text_area("Description", held.description if entry else ""),
            "classes": st.multiselect("Classes to seal", known, list(held.classes)),
            "networks": st.multiselect(
                "Networks to run",
                list(networks),
                [n for n in held.networks if n in networks],
                format_func=lambda n: f"{n} ({', '.join(networks[n])})",
            ),
            "iou": st.number_input(
                "NMS IoU: boxes of one class that overlap more than this are merged",
                0.0, 1.0, held.iou, 0.05,
            ),
            "confidence": st.number_input(
                "Confidence threshold: boxes at or above it are sealed, boxes below it need review",
                0.0, 1.0, held.confidence, 0.05,
            ),
        }  # fmt: skip
        st.caption("Thresholds of single classes, if different:")
        cells = st.columns(len(known))
        own = {
            label: cell.number_input(
                label, 0.0, 1.0, held.class_confidence.get(label), 0.05, key=f"{turn}-{label}"
            )
            for label, cell in zip(known, cells, strict=True)
        }
        table["class_confidence"] = {
            label: value
            for label, value in own.items()
            if value is not None and label in table["classes"]
        }
        table |= _padding(held)
        visible = st.checkbox(
            "Leave harmless text visible",
            held.harmless_text == "visible",
            help="Side markers, scales and technique factors stay visible if two readings agree and"
            " nothing matches the patient's data. All other text is sealed.",
        )
        table["harmless_text"] = "visible" if visible else "sealed"
        table["small_doubt"] = st.number_input(
            "Small doubt: the share of a picture that uncertain boxes may cover together to be"
            " sealed without asking; 0 asks always",
            0.0,
            0.1,
            held.small_doubt,
            0.005,
            format="%.3f",
        )
        table["release_at_most"] = st.number_input(
            "Earned release: the share of images with a miss that a device may at most have, for"
            " its images to leave without a person's look; 0 switches it off",
            0.0,
            0.05,
            held.release_at_most,
            0.005,
            format="%.3f",
        )
        if st.form_submit_button("Save the profile", type="primary"):
            engine.profiles.save(token, name, table)
            state.renew("profile")
            state.say("Profile saved. The next upload uses it.")
            st.rerun()
    if entry and entry.origin != "shipped":
        label = (
            "Reset to the shipped profile" if entry.origin == "changed" else "Delete the profile"
        )
        with widgets.banner():
            if st.button(label, key=f"reset-{turn}"):
                engine.profiles.reset(token, name)
                state.renew("profile")
                state.say("Profile reset.")
                st.rerun()
        st.caption(f"Changed {widgets.when(entry.changed_at)} by {entry.changed_by}.")


def _padding(held: Profile) -> dict[str, float | int]:
    """Padding of the profile; starts with the values of the settings."""
    settings = state.engine().settings
    left, right = st.columns(2)
    share = left.number_input(
        "Padding, as a share of the box's longer side",
        0.0, 1.0, settings.padding if held.padding is None else held.padding, 0.01,
    )  # fmt: skip
    least = right.number_input(
        "Minimum padding, px",
        0, 1000,
        settings.padding_min_px if held.padding_min_px is None else held.padding_min_px, 1,
    )  # fmt: skip
    return {"padding": float(share), "padding_min_px": int(least)}


# --- networks ---------------------------------------------------------------------------------


def models(token: str) -> None:
    """Networks with version and checksum, their measured quality, and custom networks."""
    engine = state.engine()
    engine.models.about()  # loads the networks of the default profile
    st.header("Networks")
    rows = engine.models.networks(token)
    st.dataframe(
        {
            "Network": [n.name for n in rows],
            "Detects": [", ".join(n.finds) for n in rows],
            "Used by profiles": [", ".join(n.profiles) or "none" for n in rows],
            "Model": [n.info.name if n.info else "not loaded yet" for n in rows],
            "Version": [n.info.version if n.info else "" for n in rows],
            "Licence": [n.info.licence if n.info else "" for n in rows],
            "SHA-256": [n.info.sha256 if n.info else "" for n in rows],
            "Source": [n.info.source if n.info else "" for n in rows],
        },
        hide_index=True,
    )
    admin_versions.versions(token)
    _compare_version(token)
    _evaluations(token)
    _drift(token)
    _compare(token)
    _guests(token)


def _evaluations(token: str) -> None:
    """Measured figures, and whether they belong to the weights in use."""
    engine = state.engine()
    st.header("Evaluations")
    for found in engine.models.evaluations(token):
        with st.expander(widgets.plain(found.name)):
            st.caption(_measured(found))
            widgets.facts([(name, f"{value:.4g}") for name, value in found.figures.items()])
    names = [*engine.profiles.by_name(), *engine.profiles.known_networks(token)]
    with st.form(f"evaluation-{state.turn('evaluation')}"), widgets.banner():
        name = st.selectbox("Evaluated profile or network", names)
        file = st.file_uploader("Output file of `python -m model.evaluate --json`", type="json")
        if st.form_submit_button("Add figures"):
            if file is None:
                st.error("Choose the file first.", icon=":material/error:")
            else:
                engine.models.add_evaluation(token, name, file.getvalue())
                state.renew("evaluation")
                state.say("Figures added.")
                st.rerun()


def _measured(found: Evaluation) -> str:
    added = f"Added {widgets.when(found.added_at)} by {found.added_by}. " if found.added_by else ""
    now = {
        True: "Measured with the weights in use.",
        False: "Measured with other weights than those in use.",
        None: "Not known yet whether these weights are in use: not all networks are loaded.",
    }[found.current]
    return added + now


def _drift(token: str) -> None:
    """Each month compared with the months before."""
    st.header("Drift")
    found = state.engine().models.drift(token)
    if not found:
        st.caption("No data yet: no month has images of enough patients.")
        return
    for drift in found:
        if any(s.moved for s in drift.shifts):
            name = f"{drift.month.month}, {drift.month.profile}"
            st.warning(f"{name}: {drift.sentence}", icon=":material/trending_up:")
    months = [d.month for d in found]
    st.dataframe(
        {
            "Month": [m.month for m in months],
            "Profile": [m.profile for m in months],
            "Images": [m.images for m in months],
            "Boxes per image": [m.boxes_per_image for m in months],
            "Median confidence": [m.median_confidence for m in months],
            "Added": [m.added for m in months],
            "Removed": [m.removed for m in months],
            "Changed": [m.changed for m in months],
            "Images corrected": [m.corrected for m in months],
            "Flagged": [m.flagged for m in months],
            "Verdict": [d.sentence for d in found],
        },
        hide_index=True,
        column_config={
            "Boxes per image": st.column_config.NumberColumn(format="%.1f"),
            "Median confidence": st.column_config.NumberColumn(format="%.2f"),
        },
    )
    st.caption(
        "Drift is reported if a change is large (population stability index over 0.25, or a share"
        " that grew) and statistically significant (p below 0.01, Kolmogorov-Smirnov or Fisher)."
        " Months with fewer than 30 images are not compared."
    )


def _compare(token: str) -> None:
    """Compare two profiles on waiting drafts, without changing them."""
    engine = state.engine()
    st.header("Comparison")
    st.caption(
        "Runs two profiles on the newest drafts and on stored cases in which something was missed."
        " The images are neither changed nor shown; the result is counts only."
    )
    names = list(engine.profiles.by_name())
    with st.form("compare"), widgets.banner():
        left, middle, right = st.columns(3)
        first = left.selectbox("First profile", names)
        second = middle.selectbox("Second profile", names, index=min(1, len(names) - 1))
        limit = right.number_input("Maximum number of images", 1, 200, 20)
        if st.form_submit_button("Compare"):
            with st.spinner("Running both profiles on each image …"):
                _compared(engine.models.compare(token, first, second, int(limit)))


def _compare_version(token: str) -> None:
    """A learned version beside the one in force, on drafts and on cases it never learned from."""
    engine = state.engine()
    names = [e.name for e in engine.versions.entries(token) if e.card and e.state != "in force"]
    if not names:
        return
    with st.form("compare-version"), widgets.banner():
        left, middle, right = st.columns(3)
        name = left.selectbox("Learned version", names)
        profile = middle.selectbox("Profile of the comparison", list(engine.profiles.by_name()))
        limit = right.number_input("Drafts and cases at most", 1, 200, 20)
        if st.form_submit_button("Compare with the version in force"):
            with st.spinner("Running both versions on each image …"):
                _compared(engine.models.compare_version(token, name, profile, int(limit)))


def _compared(result: Comparison) -> None:
    sides = (result.first, result.second)
    labels = sorted({*result.both, *result.first.alone, *result.second.alone})
    st.dataframe(
        {
            "Class": labels,
            "Found by both": [result.both[label] for label in labels],
            f"Only {result.first.profile}": [result.first.alone[label] for label in labels],
            f"Only {result.second.profile} (second)": [
                result.second.alone[label] for label in labels
            ],
        },
        hide_index=True,
    )
    st.dataframe(
        {
            "Profile": [side.profile for side in sides],
            "Images": [result.images] * 2,
            "Nothing found": [side.empty for side in sides],
            "Failed": [side.failed for side in sides],
            f"Covered, of {result.by_people} boxes drawn by people": [
                side.covered for side in sides
            ],
            "Median ms": [side.median_ms for side in sides],
        },
        hide_index=True,
    )


def _guests(token: str) -> None:
    """The hospital's own networks: a list, and a form to add one."""
    engine = state.engine()
    st.header("The hospital's own networks")
    for name, record in engine.custom_networks.records(token).items():
        with st.expander(f"{widgets.plain(record.title)} ({name})"), widgets.banner():
            widgets.facts(
                [
                    (
                        "Classes",
                        ", ".join(f"{k} → {v or 'ignored'}" for k, v in record.names.items()),
                    ),
                    ("Input size", f"{record.side} px"),
                    ("File", widgets.size(record.size_bytes)),
                    ("SHA-256", record.sha256),
                    ("Run time at the check", f"{record.check_ms:.0f} ms"),
                    ("Added", f"{widgets.when(record.added_at)} by {record.added_by}"),
                ]
            )
            if st.button("Remove network", key=f"remove-guest-{name}"):
                engine.custom_networks.remove(token, name)
                state.say("Network removed.")
                st.rerun()
    st.caption(
        "ONNX files with a YOLOv8 detection head. MedSec test-runs a network before it accepts it,"
        " stores it encrypted, and runs it in a process without keys. If it fails on an image, a"
        " person reviews that image. PyTorch files can contain code and are refused."
    )
    turn = state.turn("guest")
    file = st.file_uploader("Network (.onnx)", type="onnx", key=f"guest-file-{turn}")
    if file is not None:
        with widgets.banner():
            _new_guest(token, file.getvalue(), turn)


def _new_guest(token: str, model: bytes, turn: int) -> None:
    engine = state.engine()
    shape = engine.custom_networks.inspect(token, model)
    known = sorted(
        {label for found in engine.profiles.known_networks(token).values() for label in found}
    )
    with st.form(f"guest-{turn}"), widgets.banner():
        name = st.text_input("Short name", help="Lowercase letters, digits and hyphens.").strip()
        title = st.text_input("Title")
        side = shape.side or st.number_input("Input size, px", 64, 2048, 640, 32)
        st.caption(
            "Map each class of the network to a class of MedSec. Classes left empty are ignored."
        )
        mapping = {
            its: st.selectbox(its, ["", *known], index=known.index(its) + 1 if its in known else 0)
            for its in shape.names
        }
        if st.form_submit_button("Check and add", type="primary"):
            with st.spinner("Running the network …"):
                names = {its: ours for its, ours in mapping.items() if ours}
                engine.custom_networks.add(token, name, title, model, names, int(side))
            state.renew("guest")
            state.say("Network added. Profiles can use it now.")
            st.rerun()
