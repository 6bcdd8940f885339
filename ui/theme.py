"""Styles for all pages, beyond the theme in ``.streamlit/config.toml``."""

from __future__ import annotations

import streamlit as st

_CSS = """
<style>
  /* Streamlit names one limit for all files; the uploader's label says which holds for what. */
  [data-testid="stFileUploaderDropzoneInstructions"] { display: none; }
  .stMainBlockContainer { padding: 3.2rem 2.5rem 4rem; max-width: 110rem; }
  @media (max-width: 640px) {
    .stMainBlockContainer { padding: 3.4rem 1rem 3rem; }
    h1 { font-size: 1.5rem !important; }
  }
  :focus-visible { outline: 3px solid var(--st-link-color, #0b6780); outline-offset: 2px; }
  /* These show the focus on their frame; a ring inside of it appears as two bars. */
  input:not([type="checkbox"], [type="radio"], [type="range"]):focus-visible,
  textarea:focus-visible, [data-testid="stSelectbox"] button:focus-visible { outline: none; }
  [role="spinbutton"]:focus-visible { outline: none; }  /* parts of a date are inverted */
  [role="tab"]:focus-visible { outline-offset: -3px; }
  [data-testid="stMetric"] { padding: 0.6rem 0.9rem; }
  [data-testid="stMetricValue"] { font-size: 1.5rem; }
  [data-testid="stCaptionContainer"] p { color: inherit; }
  [data-testid="stCaptionContainer"] { color: inherit; opacity: 0.82; }
  [data-testid="stSliderThumbValue"], [data-testid="stSliderThumbValue"] * {
    color: inherit !important;  /* the primary colour is too dark for small text on dark */
  }
  @media (max-width: 1000px) {
    .stMainBlockContainer { padding-left: 1.5rem; padding-right: 1.5rem; }
    [data-testid="stSidebar"][data-collapsed="false"] {
      min-width: 12.5rem; width: 12.5rem !important;
    }
  }
  /* A word is never broken where a space would do. */
  [data-testid="stMarkdownContainer"], [data-testid="stMetricLabel"] {
    overflow-wrap: break-word; word-break: normal;
  }
  :has(> .st-key-seal-bar) {
    position: sticky; bottom: 0; z-index: 80; margin: 0 -5px; padding: 0.5rem 5px;
    background: Canvas;  /* light or dark, as the page */
    border-top: 1px solid color-mix(in srgb, CanvasText 25%, transparent);
  }
  /* Beside a study every line counts: its heading is for those who listen. */
  .stMainBlockContainer:has(.st-key-study-bar) [data-testid="stElementContainer"]:has(h1) {
    position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%);
  }
  :has(> .st-key-patient-banner) { position: sticky; top: 3.2rem; z-index: 90; }
  .patient {
    display: flex; flex-wrap: wrap; gap: 0.1rem 1.4rem; align-items: baseline; padding: 0.5rem 1rem;
    background: #15323d; color: #fff; border-radius: 0.4rem; font-variant-numeric: tabular-nums;
  }
  .patient strong { font-size: 1.1rem; font-weight: 600; }
  img.picture { display: block; max-width: 100%; border-radius: 0.4rem; }
  img.picture.small {
    width: 100%; height: 10rem; object-fit: contain; background: #0a0d0f;
  }
  table.facts { border-collapse: collapse; }
  table.facts th, table.facts td {
    text-align: left; vertical-align: top; padding: 0.15rem 1.2rem 0.15rem 0; font-weight: 400;
    overflow-wrap: anywhere; font-variant-numeric: tabular-nums;
  }
  table.facts th { min-width: 8rem; opacity: 0.8; overflow-wrap: normal; }
  /* What tells buttons with one label apart, for those who listen: see widgets.button_for. */
  [class*="st-key-named-"] button p span[style] {
    position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%);
  }
  .demo-banner {
    border: 1px solid #8a6d1f; border-left-width: 0.5rem; border-radius: 0.5rem;
    background: #fff4d6; color: #3d2f06; padding: 0.55rem 0.9rem;
  }
  .demo-banner code { background: #ffe8ab; color: inherit; padding: 0 0.25rem; }
</style>
"""


def apply() -> None:
    """Add the styles to the page; ``Home.py`` calls this once per run."""
    st.html(_CSS)


def hide_sidebar() -> None:
    """Without a session there is nothing in it; one that has just ended would leave it empty."""
    st.html('<style>[data-testid="stSidebar"] { display: none; }</style>')


MARK = """
<svg viewBox="0 0 32 32" width="32" height="32" role="img" aria-label="MedSec">
  <rect x="2" y="2" width="28" height="28" rx="7" fill="#0b6780"/>
  <rect x="7" y="8" width="18" height="16" rx="2" fill="none" stroke="#fff" stroke-width="2"/>
  <rect x="11" y="13" width="10" height="6" fill="#fff"/>
</svg>
"""

#: A picture of what MedSec does: an image with boxes, the sealed image, the restored original.
STORY = """
<svg viewBox="0 0 760 190" width="100%" role="img" style="max-width:760px"
 aria-label="A medical image goes in; the regions with names are found and encrypted; everyone
 works with the sealed image; a doctor with permission gets the original back, pixel for pixel.">
  <defs>
    <pattern id="hatch" width="8" height="8" patternUnits="userSpaceOnUse"
     patternTransform="rotate(45)"><rect width="8" height="8" fill="#5b6b75"/>
     <line x1="0" y1="0" x2="0" y2="8" stroke="#93a3ac" stroke-width="3"/></pattern>
    <g id="film"><rect width="180" height="140" rx="8" fill="#0d1519"/>
      <path d="M90 26c-34 0-56 26-58 62 0 18 8 30 26 30 14 0 24-8 32-8s18 8 32 8c18 0 26-12
       26-30-2-36-24-62-58-62z" fill="#4f5e67"/>
      <path d="M90 34v70M62 58c10 6 18 8 28 8s18-2 28-8M58 78c12 6 20 8 32 8s20-2 32-8"
       stroke="#8fa0a9" stroke-width="4" fill="none"/></g>
    <marker id="tip" markerWidth="8" markerHeight="8" refX="6" refY="4" orient="auto">
      <path d="M0 0l8 4-8 4z" fill="#5f7885"/></marker>
  </defs>
  <g transform="translate(10 8)"><use href="#film"/>
    <text x="10" y="18" fill="#fff" font-size="11">DOE, JANE 1961</text>
    <rect x="6" y="6" width="98" height="17" fill="none" stroke="#ffd166" stroke-width="2"/></g>
  <g transform="translate(290 8)"><use href="#film"/>
    <rect x="6" y="6" width="98" height="17" fill="url(#hatch)"/></g>
  <g transform="translate(570 8)"><use href="#film"/>
    <text x="10" y="18" fill="#fff" font-size="11">DOE, JANE 1961</text></g>
  <g stroke="#5f7885" stroke-width="2" marker-end="url(#tip)">
    <path d="M200 78h78"/><path d="M480 78h78"/></g>
  <g fill="currentColor" font-size="13" text-anchor="middle">
    <text x="239" y="66">seal</text><text x="519" y="66">restore</text>
    <text x="100" y="172">Names are found</text>
    <text x="380" y="172">Only they are encrypted</text>
    <text x="660" y="172">Exact, with permission</text></g>
</svg>
"""
