"""Runs in an environment of its own: how long Presidio's DICOM redactor takes for one file.

    python benchmarks/presidio_peer.py FILE.dcm X1 Y1 X2 Y2

Prints milliseconds, and the share of the pixels of a box that it changed. Needs
``pip install presidio-image-redactor`` and Tesseract. The language model is spaCy's blank English
one, as nothing else can be had offline; it makes Presidio faster, not slower, and leaves it the
names in the header to look for.
"""

import sys
import time
import warnings

warnings.filterwarnings("ignore")


def main() -> int:
    if len(sys.argv) != 6:
        print("skipped: this one is called by benchmarks.stages, with a file")
        return 0
    import pydicom
    import spacy
    from presidio_analyzer import AnalyzerEngine
    from presidio_analyzer.nlp_engine import SpacyNlpEngine
    from presidio_image_redactor import DicomImageRedactorEngine, ImageAnalyzerEngine

    class Blank(SpacyNlpEngine):
        def __init__(self):
            super().__init__(models=[{"lang_code": "en", "model_name": "blank"}])
            self.nlp = {"en": spacy.blank("en")}

    analyzer = AnalyzerEngine(nlp_engine=Blank(), supported_languages=["en"])
    engine = DicomImageRedactorEngine(ImageAnalyzerEngine(analyzer_engine=analyzer))
    file = pydicom.dcmread(sys.argv[1])
    engine.redact(file, fill="contrast")  # warms up
    began = time.perf_counter()
    redacted = engine.redact(file, fill="contrast")
    print((time.perf_counter() - began) * 1000.0)
    x1, y1, x2, y2 = map(int, sys.argv[2:])
    changed = file.pixel_array != redacted.pixel_array
    print(float(changed[..., y1:y2, x1:x2].mean()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
