"""The page that a report for patients is drawn on."""

from __future__ import annotations

from pathlib import Path

from fpdf import FPDF
from fpdf.fonts import TTFFont

_FONT = Path(__file__).parent / "fonts" / "DejaVuSans.ttf"


class Page(FPDF):
    """A4 across, with page numbers, in a font for Latin, Greek, Cyrillic, Arabic and Hebrew."""

    def __init__(self) -> None:
        super().__init__(orientation="landscape", format="A4")
        self.add_font("DejaVu", "", _FONT)
        self.add_font("DejaVu", "B", _FONT)  # the head of a table asks for bold
        self.set_font("DejaVu")

    def footer(self) -> None:
        """Page number; called by FPDF."""
        self.set_y(-12)
        self.set_font("DejaVu", size=7)
        self.cell(0, 5, f"Page {self.page_no()} of {{nb}}", align="R")

    def shown(self, text: str) -> str:
        """The text with what the font lacks spelled out."""
        font = self.fonts["dejavu"]
        assert isinstance(font, TTFFont)
        known = font.cmap
        return "".join(c if ord(c) in known or c == "\n" else f" U+{ord(c):04X} " for c in text)
