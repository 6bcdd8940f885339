# ruff: noqa: F811 (a fixture of another file is a parameter here)
"""The Release tab and what Home says of it, without a browser."""

from __future__ import annotations

import pytest

from engine import Engine
from tests.conftest import PASSWORD, Team, Ward
from tests.service.test_devices import taught  # noqa: F401 - a fixture
from tests.service.test_earned_release import (  # noqa: F401 - fixtures
    CLEAN,
    learned,
    no_samples,
    picture,
    ruled,
    standing,
    stream,
)
from tests.ui.test_pages import Visit, click, patient, texts, visit  # noqa: F401
from ui.release_chart import release_bound


def test_the_tab_says_that_no_profile_has_a_rule(team: Team, visit: Visit) -> None:
    app = visit(team.administrator, "4_Admin", tab="Release")
    assert "No profile lets images earn their release" in texts(app)


def test_the_tab_shows_streams_and_suspends_one_with_a_reason(ruled: Ward, visit: Visit) -> None:
    learned(ruled)
    app = visit(ruled.team.administrator, "4_Admin", tab="Release")
    table = next(d.value for d in app.dataframe if "Looks saved" in d.value)
    assert table["State"].tolist() == ["trusted"]
    assert table["Looks"].tolist() == [CLEAN]
    assert 0 < table["Bound, %"][0] <= 5
    click(app, "Suspend this stream")
    assert "Give a reason" in texts(app)
    next(t for t in app.text_input if t.label == "Reason").input("a new probe")
    click(app, "Suspend this stream")
    assert "Suspended" in texts(app)
    assert standing(ruled).why == "a new probe"


def test_home_says_how_many_looks_were_saved_and_at_what_bound(
    ruled: Ward, visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_samples(ruled, monkeypatch)
    learned(ruled)
    image_id = ruled.upload(picture("ONE"))
    ruled.engine.drafts.seal_undoubted(ruled.team.technician, image_id)
    said = texts(visit(ruled.team.administrator, ""))
    assert "1 image left without a person's look" in said
    assert f"{ruled.engine.release.saved_this_week(ruled.team.administrator).bound:.2%}" in said
    ruled.engine.context.host.advance(days=8)
    again = ruled.engine.sessions.sign_in("admin", PASSWORD).token
    assert ruled.engine.release.saved_this_week(again).images == 0


def test_nobody_who_handles_images_sees_what_is_trusted(engine: Engine, team: Team) -> None:
    from engine import errors

    for role in ("technician", "doctor", "researcher"):
        with pytest.raises(errors.PermissionDenied):
            engine.release.streams(getattr(team, role))


def test_the_chart_describes_the_bound_in_words() -> None:
    figure = release_bound([(1, 0.97), (377, 0.00999)], 0.01)
    assert figure.layout.meta["describes"] == (
        "After 377 looks the bound is 1.00%. The profile allows 1.00%."
    )
    assert list(figure.data[0].y) == pytest.approx([97, 0.999])
    assert release_bound([], 0.01).layout.meta["describes"].startswith("No person has looked")


def test_a_place_is_made_a_rule_and_the_rule_ends(taught: Ward, visit: Visit) -> None:
    app = visit(taught.team.administrator, "4_Admin", tab="Release")
    click(app, "Always seal text at 200, 150 to 260, 190 px")
    [entry] = taught.engine.devices.places(taught.team.administrator)
    assert len(entry.always) == 1
    click(app, "End the rule: text at 200, 150 to 260, 190 px")
    [entry] = taught.engine.devices.places(taught.team.administrator)
    assert entry.always == ()
