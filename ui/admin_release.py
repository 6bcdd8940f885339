"""The Release tab: what streams of images have shown, and the way to suspend one."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from engine import Place, Standing, Trust
from ui import release_chart, state, widgets
from ui.chart_style import CONFIG

_STATES = {
    Trust.LEARNING: "learning",
    Trust.TRUSTED: "trusted",
    Trust.SUSPENDED: "suspended",
}


def release(token: str) -> None:
    """Earned release, and the places that are learned of each device."""
    _earned(token)
    _places(token)


def _earned(token: str) -> None:
    """Every stream with its looks, misses and bound; a chart of one, and a button to suspend it."""
    engine = state.engine()
    ruled = {
        p.title: p.release_at_most for p in engine.profiles.by_name().values() if p.release_at_most
    }
    if ruled:
        said = "; ".join(f"{widgets.plain(title)}: at most {p:.3%}" for title, p in ruled.items())
        st.write(f"Share of images with a miss, with a confidence of 95 %: {said}.")
    else:
        st.info(
            "No profile lets images earn their release. Set the share of images with a miss in a"
            " profile (tab Profiles) to begin."
        )
    streams = engine.release.streams(token)
    if not streams:
        return
    _table(streams)
    names = {s.name.stream_id: _name(s) for s in streams}
    chosen = st.selectbox("Stream", list(names), format_func=names.__getitem__)
    found = next(s for s in streams if s.name.stream_id == chosen)
    widgets.facts([*found.name.parts, ("version of detector and profile", found.name.version)])
    curve = engine.release.curve(token, chosen)
    share = dict(found.name.parts)["profile"]
    profile = engine.profiles.by_name().get(share)
    figure = release_chart.release_bound(
        curve, profile.release_at_most if profile else 0.0, st.context.theme.type == "dark"
    )
    st.subheader(figure.layout.meta["title"])
    st.caption(figure.layout.meta["explains"])
    st.plotly_chart(figure, theme=None, config=CONFIG, key=f"bound-{chosen}")
    st.caption(figure.layout.meta["describes"])
    with st.form(f"suspend-{state.turn('suspend')}", width=440), widgets.banner():
        reason = st.text_input("Reason", key=f"suspend-reason-{state.turn('suspend')}")
        if st.form_submit_button("Suspend this stream"):
            engine.release.suspend(token, chosen, reason)
            state.renew("suspend")
            state.say("Suspended. A person looks at every image until it is trusted again.")
            st.rerun()
    st.caption("Trust follows from looks alone: nobody can grant it.")


def _name(stream: Standing) -> str:
    return " · ".join(value for _, value in stream.name.parts if value)


def _table(streams: Sequence[Standing]) -> None:
    st.dataframe(
        {
            "Stream": [_name(s) for s in streams],
            "State": [_STATES[s.state] for s in streams],
            "Images": [s.images for s in streams],
            "Looks": [s.looks for s in streams],
            "Misses": [s.misses for s in streams],
            "Bound, %": [100 * s.bound for s in streams],
            "Waiting": [s.waiting for s in streams],
            "Looks saved": [s.released for s in streams],
            "Suspended because of": [s.why for s in streams],
        },
        hide_index=True,
        column_config={"Bound, %": st.column_config.NumberColumn(format="%.2f")},
    )


def _places(token: str) -> None:
    """Places that people sealed again and again, by device; each can be made a rule."""
    engine = state.engine()
    st.header("Places of devices")
    st.caption(
        "What people sealed at the same place of at least 3 of the last 20 images of a device is"
        " proposed on its next image. Made a rule, it is sealed on every image without asking. No"
        " box is ever taken away by this."
    )
    for entry in engine.devices.places(token):
        name = " · ".join(value for _, value in entry.parts if value)
        with st.expander(widgets.plain(name)), widgets.banner():
            for place in entry.again:
                if st.button(
                    f"Always seal {_place(place)}",
                    key=f"always-{entry.device_id}-{place.place_id}",
                    help=f"People sealed it on {place.images} of the last 20 images.",
                ):
                    engine.devices.always(token, entry.device_id, place.place_id)
                    state.say("Sealed on every image of this device from now on.")
                    st.rerun()
            for place in entry.always:
                if st.button(
                    f"End the rule: {_place(place)}",
                    key=f"stop-{entry.device_id}-{place.place_id}",
                ):
                    engine.devices.stop(token, entry.device_id, place.place_id)
                    state.say("The rule ended.")
                    st.rerun()


def _place(place: Place) -> str:
    x1, y1, x2, y2 = place.region.xyxy
    return f"{place.label} at {x1}, {y1} to {x2}, {y2} px"


def saved(token: str) -> None:
    """On Home: looks that were saved this week; nothing where no image earned its release."""
    found = state.engine().release.saved_this_week(token)
    if found.bound is not None:
        images = "image" if found.images == 1 else "images"
        st.write(
            f"This week {found.images:,} {images} left without a person's look. At most"
            f" {found.bound:.2%} of the images of their devices have a miss (95 % confidence, at"
            " all times)."
        )
