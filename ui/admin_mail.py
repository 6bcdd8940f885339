"""What the administrator sees of e-mail: what was sent, what waits, and a test."""

from __future__ import annotations

import streamlit as st

from ui import state, widgets


def mail(token: str) -> None:
    """Notices of the last weeks."""
    engine = state.engine()
    st.header("E-mail")
    if not engine.settings.smtp_host:
        st.info(
            "Off. With `MEDSEC_SMTP_HOST`, `MEDSEC_MAIL_FROM` and `MEDSEC_MAIL_TO`, requests for"
            " accounts, lock-outs, emergency access and failed backups are told by e-mail; nothing"
            " of a patient ever is.",
            icon=":material/mail:",
        )
        return
    with widgets.banner():
        if st.button("Send a test", icon=":material/send:"):
            engine.send_test_mail(token)
            st.success("The mail server took it.", icon=":material/check:")
    notices = engine.notices(token)
    st.dataframe(
        {
            "When (UTC)": [n.created_at for n in notices],
            "What": [n.subject for n in notices],
            "Sent (UTC)": [n.sent_at for n in notices],
            "Attempts": [n.attempts for n in notices],
            "Given up": [n.gave_up for n in notices],
        },
        hide_index=True,
    )
