"""Admin: accounts, access, audit log, keys, health, models, settings. No patient images."""

from __future__ import annotations

import streamlit as st

from engine import Permission
from ui import (
    admin,
    admin_access,
    admin_accounts,
    admin_deidentification,
    admin_mail,
    admin_models,
    admin_network,
    admin_release,
    admin_settings,
    state,
)

token = state.page("Admin", Permission.MANAGE_ACCOUNTS)


def health(token: str) -> None:
    """Health of the system, and e-mail."""
    admin.health(token)
    admin_mail.mail(token)


TABS = {
    "Accounts": admin_accounts.accounts,
    "Access": admin_access.access,
    "Audit log": admin.audit,
    "Keys and backups": admin.custody,
    "Health": health,
    "Profiles": admin_models.profiles,
    "Models": admin_models.models,
    "Release": admin_release.release,
    "De-identification": admin_deidentification.deidentification,
    "Network": admin_network.network,
    "Settings": admin_settings.settings,
}
# Only the open tab is drawn, because some tabs read the whole catalog. The URL names it.
for tab, draw in zip(
    st.tabs(list(TABS), key="tab", bind="query-params"), TABS.values(), strict=True
):
    if tab.open:
        with tab:
            draw(token)
