"""Invented texts in the manner of medical pictures. Nobody's name is in here."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from random import Random

from faker import Faker

TODAY = datetime(2026, 1, 1)  # noqa: DTZ001 - fixed, or each day would draw other dates
LOCALES = {
    "la": ["en_US", "de_DE", "fr_FR", "es_ES", "it_IT", "pl_PL", "tr_TR", "cs_CZ", "sv_SE", "pt_BR",
           "nl_NL", "hu_HU"],
    "ru": ["ru_RU", "uk_UA"], "el": ["el_GR"], "ar": ["ar_SA", "fa_IR"], "he": ["he_IL"],
    "hi": ["hi_IN"], "th": ["th_TH"], "zh-cn": ["zh_CN", "zh_TW"], "ja": ["ja_JP"],
    "ko": ["ko_KR"],
}  # fmt: skip


def _listed(text: str) -> list[str]:
    return text.split("|")


# ``{}`` and letters in braces stand for numbers.
NUMBERS = _listed(
    "{}|ID: {}|ID {}|MRN {}|#{}|PID:{}|Acc: {}|A{}|No. {}|{}-01|Pat-Nr. {}|UID 1.2.{}"
)
DATES = _listed(
    "%d.%m.%Y|%Y-%m-%d|%m/%d/%Y|%d-%b-%Y|%d/%m/%y|%Y%m%d|%b %d, %Y|%Y.%m.%d|%d %b %y|"
    "DOB: %d/%m/%Y|*%d.%m.%Y|Geb. %d.%m.%Y|Study Date: %Y-%m-%d|%a %d %b %Y"
)
PERSONS = _listed(
    "M|F|Male|Female|Sex: M|Sex: F|{}Y|0{}Y M|F, {} years|Age: {}|{} y/o|M {}Y|Alter: {}|W/{}"
)
INSTITUTIONS = _listed(
    "{} Hospital|{} Medical Center|Klinikum {}|CHU {}|{} Clinic|St. {} Hospital|Ospedale {}|"
    "Radiologie {}|Dr. {}|{} Imaging|Universitätsklinikum {}|Hospital {}"
)
TECHNIQUES = _listed(
    "{a} kVp|{a} kV {b} mAs|mAs {b}|SID {c} cm|EI {c}|S:{c}|W {c} L {b}|WW: {c} WL: {b}|"
    "Zoom {d}x|{d} mm|Se: {e}|Im: {e}/{b}|SE:{e} IM:{b}|Slice {e}|TR {c} TE {b}|FOV {b} cm|"
    "Thk {d} mm|C{b} W{c}|DFOV {d}cm|Mag {d}|Exp: {b}|Scale {a}%|Tilt {e}|512x512|Lossy {e}:1|"
    "kV {a}|mA {c}|Rot {d}s|H{a}s|Spin: -{e}|L: {d} cm|DAP {d}"
)
ULTRASOUND = _listed(
    "MI {d}|MI: {d}|TIs {d}|TIB {d}|TIS 0.{e}|Gn {e}|C{e}|{b} Hz|FR {b}Hz|{e} cm|{d} cm|C5-1|"
    "L12-3|S5-1|DR {b}|{b}%|2D|HGen|Map 3|WF 61Hz|PRF {d}kHz|Res|P Low|M4|P R|Gen THI|"
    "Dist {d} cm|+ Dist {d} cm|1 L {d} cm|V {d} cm/s|EF {b} %|HR {a} bpm|BPD {d} cm|"
    "GA {e}w{f}d|AC {d} cm|FL {d} mm|D {d} cm|Frq 8.0|FR{b}|AO% 100|Pen|S/A 2/3|LIVER|"
    "RT KIDNEY LONG|LT OVARY|Abd Gen|OB|Cardiac|PLAX|A4C|Sag|TRV|Zoom|MSK|Thyroid|"
    "[2D] G{b}/{a}dB"
)
MARKERS = _listed(
    "L|R|L|R|AP|PA|RT|LT|L MLO|R CC|R-CC|LCC|PORTABLE|ERECT|SUPINE|SITTING|Seated|STANDING|"
    "DECUB|AP SUPINE|bedside|Upright|LAT|OBL|A|P|H|F|S|I|RAO|LMLO|ICU|MOBILE|WEIGHT BEARING|"
    "rechts|links|D|G|E|im Liegen|L-MLO|RML|R JD|L 23"
)
CARDIOGRAMS = _listed(
    "Vent. rate {a} BPM|PR interval {b} ms|QRS duration {a} ms|QT/QTc {c}/{c} ms|"
    "P-R-T axes {e} {a} {b}|25 mm/s|10 mm/mV|25mm/s 10mm/mV 150Hz|HR {a}|Sinus rhythm|"
    "Normal ECG|Sinus bradycardia|Abnormal ECG|Unconfirmed|Left axis deviation|F 0.5-150 Hz|"
    "Technician: {e}|Room: {e}|Loc: {e}|Nonspecific T wave abnormality|Referred by:|"
    "Speed: 25 mm/sec|{b}/{a} mmHg"
)
FIELDS = _listed(
    "Name:|Date of birth|Patient|Ward|Doctor|Diagnosis|Order no.|Sample|Sex|Nom|Datum|Insurance|"
    "Phone|Requested"
)
SCOPES = _listed(
    "Name:|Sex:|Age:|D.O.Birth:|SCV:{e}|CVP:{e}/{e}|Gr:N|Eh:A{e}|Ce:{e}|Comment:|Physician:|"
    "Cm:|Ct:N|D.F:|ID No.|Eh A7|GIF-H190|CF-Q180AL|■■■ {e}|NBI|Zoom 1.{e}x|Antrum|Cecum|"
    "Hospital:"
)


@lru_cache(maxsize=64)
def _faker(locale: str) -> Faker:
    return Faker(locale)  # slow to make, so one per language and process, seeded anew per page


class Phrases:
    """A source of such texts.

    Args:
        rng: Where all randomness comes from.
    """

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.identities: set[str] = set()  # texts given out that name a patient
        self._faker = {script: _faker(rng.choice(names)) for script, names in LOCALES.items()}
        for faker in self._faker.values():
            faker.seed_instance(rng.getrandbits(32))

    def _decimal(self, high: float) -> str:
        return f"{self.rng.uniform(0.1, high):.{self.rng.randint(1, 2)}f}"

    def _upper(self, text: str) -> str:
        return text.upper() if self.rng.random() < 0.5 else text

    def name(self, script: str = "la") -> str:
        fake = self._faker[script]
        if script != "la":
            return str(fake.name())
        first, last = fake.first_name(), fake.last_name()
        form = self.rng.choice(
            ("{l}, {f}", "{l}^{f}", "{f} {l}", "{l} {f}", "{l}, {f} {m}.", "{l}")
        )
        text = form.format(f=first, l=last, m=self.rng.choice("ABCDEFGHJKLMNPRSTW"))
        return self._upper(text)

    def number(self) -> str:
        r = self.rng
        digits = "".join(r.choice("0123456789") for _ in range(r.randint(5, 12)))
        return r.choice(NUMBERS).format(digits)

    def date(self) -> str:
        day = self._faker["la"].date_object(end_datetime=TODAY)
        form = self.rng.choice(DATES)
        return self._upper(day.strftime(form))

    def time(self) -> str:
        clock = self._faker["la"].time_object(end_datetime=TODAY)
        return str(
            clock.strftime(self.rng.choice(("%H:%M:%S", "%H:%M", "%I:%M:%S %p", "%H.%M.%S")))
        )

    def person(self) -> str:
        r = self.rng
        return r.choice(PERSONS).format(r.randint(1, 97))

    def institution(self) -> str:
        fake = self._faker["la"]
        form = self.rng.choice(INSTITUTIONS)
        return self._upper(form.format(self.rng.choice((fake.city(), fake.last_name()))))

    def address(self) -> str:
        return str(self._faker["la"].address()).splitlines()[0]

    def sentence(self) -> str:
        return str(self._faker["la"].sentence(nb_words=self.rng.randint(2, 9)))

    def technique(self) -> str:
        r = self.rng
        form = r.choice(TECHNIQUES)
        return form.format(
            a=r.randint(40, 140),
            b=r.randint(1, 90),
            c=r.randint(100, 3000),
            d=self._decimal(40),
            e=r.randint(1, 60),
        )

    def ultrasound(self) -> str:
        r = self.rng
        form = r.choice(ULTRASOUND)
        return form.format(
            a=r.randint(50, 140),
            b=r.randint(8, 99),
            d=self._decimal(19),
            e=r.randint(1, 40),
            f=r.randint(0, 6),
        )

    def marker(self) -> str:
        return self.rng.choice(MARKERS)

    def cardiogram(self) -> str:
        r = self.rng
        form = r.choice(CARDIOGRAMS)
        return form.format(
            a=r.randint(45, 140), b=r.randint(80, 220), c=r.randint(300, 480), e=r.randint(1, 60)
        )

    def scope(self) -> str:
        r = self.rng
        form = r.choice(SCOPES)
        return form.format(e=r.randint(1, 60))

    def caption(self) -> str:
        r = self.rng
        makers = (
            self.sentence,
            self.institution,
            lambda: f"Fig. {r.randint(1, 9)}",
            lambda: f"Tooth {r.randint(11, 48)}",
            lambda: r.choice("abcdABCD"),
            lambda: f"{r.randint(1, 30)} mm",
            lambda: "www." + str(self._faker["la"].domain_name()),
            lambda: f"IMG_{r.randint(1000, 9999)}",
            self.date,
        )
        return r.choice(makers)()

    def identity(self, script: str = "la") -> str:
        """What names a patient: the text that must never be missed."""
        makers = (self.name, self.number, self.date, self.person, self.institution)
        make = self.rng.choices(makers, (4, 3, 3, 1.5, 1.5))[0]
        if make == self.name:
            text = self.name(script)
            prefix = (
                ("", "", "", "Name: ", "Patient: ", "Pt: ", "Name ") if script == "la" else ("",)
            )
            text = self.rng.choice(prefix) + text
        else:
            text = make()
        self.identities.add(text)
        return text
