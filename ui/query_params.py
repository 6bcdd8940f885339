"""What a page's address holds: filters that can be shared, and nothing that somebody typed.

An address is written to logs and histories on its way. It holds kinds, classes, days, numbers
and opaque keys.
"""

from __future__ import annotations

from datetime import date

import streamlit as st


def asked(name: str) -> str:
    """A value of the address; empty where it is not there."""
    return str(st.query_params.get(name, ""))


def asked_day(name: str) -> date | None:
    """A day of the address; None where there is none, or no day."""
    try:
        return date.fromisoformat(asked(name))
    except ValueError:
        return None


def asked_list(name: str) -> list[str]:
    """Several values of the address."""
    return [part for part in asked(name).split(",") if part]


def tell(name: str, value: str | date | None) -> None:
    """Put a value into the address, or take it out."""
    text = value.isoformat() if isinstance(value, date) else value
    if text:
        if st.query_params.get(name) != text:
            st.query_params[name] = text
    elif name in st.query_params:
        del st.query_params[name]
