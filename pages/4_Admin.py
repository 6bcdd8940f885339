"""Accounts, audit log, health, models and settings; no patient picture anywhere."""

from __future__ import annotations

import streamlit as st

from engine import Permission
from ui import admin, admin_access, admin_accounts, admin_mail, admin_models, admin_settings, state

token = state.page("Admin", Permission.MANAGE_ACCOUNTS)

accounts, access, audit, custody, health, profiles, models, settings = st.tabs(
    [
        "Accounts",
        "Access",
        "Audit log",
        "Keys and backups",
        "Health",
        "Profiles",
        "Models",
        "Settings",
    ],
    key="admin-tabs",
)
with accounts:
    admin_accounts.accounts(token)
with access:
    admin_access.access(token)
with audit:
    admin.audit(token)
with custody:
    admin.custody(token)
with health:
    admin.health(token)
    admin_mail.mail(token)
with profiles:
    admin_models.profiles(token)
with models:
    admin_models.models(token)
with settings:
    admin_settings.settings(token)
