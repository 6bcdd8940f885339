"""Filters kept in the query string of a page's URL, so that a link restores them.

URLs end up in logs and browser histories. They hold modalities, classes, days, numbers and
opaque ids only, never text that a user typed.
"""

from __future__ import annotations

from datetime import date

import streamlit as st


def asked(name: str) -> str:
    """A query parameter; empty if absent."""
    return str(st.query_params.get(name, ""))


def asked_day(name: str) -> date | None:
    """A query parameter as a date; None if absent or not a date."""
    try:
        return date.fromisoformat(asked(name))
    except ValueError:
        return None


def asked_list(name: str) -> list[str]:
    """A comma-separated query parameter as a list."""
    return [part for part in asked(name).split(",") if part]


def tell(name: str, value: str | date | None) -> None:
    """Set a query parameter, or remove it if the value is empty."""
    text = value.isoformat() if isinstance(value, date) else value
    if text:
        if st.query_params.get(name) != text:
            st.query_params[name] = text
    elif name in st.query_params:
        del st.query_params[name]
