"""E-mail on the Health tab: sent and waiting notices, and a test mail."""

from __future__ import annotations

import streamlit as st

from ui import state, widgets


def mail(token: str) -> None:
    """Notices of the last weeks, and a button to send a test mail."""
    engine = state.engine()
    st.header("E-mail")
    if not engine.settings.smtp_host:
        st.info(
            "E-mail is off. Set `MEDSEC_SMTP_HOST`, `MEDSEC_MAIL_FROM` and `MEDSEC_MAIL_TO` to be"
            " notified of account requests, lockouts, emergency access and failed backups. E-mails"
            " never contain patient data.",
            icon=":material/mail:",
        )
        return
    with widgets.banner():
        if st.button("Send a test e-mail", icon=":material/send:"):
            engine.health.send_test_mail(token)
            st.success("The mail server accepted the test e-mail.", icon=":material/check:")
    notices = engine.health.notices(token)
    st.dataframe(
        {
            **widgets.times("When", [n.created_at for n in notices]),
            "Subject": [n.subject for n in notices],
            **widgets.times("Sent", [n.sent_at for n in notices]),
            "Attempts": [n.attempts for n in notices],
            "Given up": [n.gave_up for n in notices],
        },
        hide_index=True,
    )
