"""What a wheel of MedSec holds: this folder as one package, ``medsec``, less tests and training."""

from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
PACKAGES = find_packages(str(HERE), exclude=("tests*", "benchmarks*", "model*"))
#: Files that are read, not imported: ``pages`` are scripts of Streamlit.
FOLDERS = (".streamlit", "pages", *(name for name in PACKAGES if "." not in name))
MODEL = (
    "SHA256SUMS", "CARD.md", "best.*", "tattoo.onnx", "verifier-*.onnx", "profiles/*",
    "evaluations/*", "vendor/*",
)  # fmt: skip


def data() -> list[str]:
    """Paths of those files from here."""
    found = [path for name in MODEL for path in (HERE / "model").glob(name)]
    for folder in FOLDERS:
        found += [p for p in (HERE / folder).rglob("*") if p.is_file()]
    return [
        str(p.relative_to(HERE))
        for p in sorted(found)
        if p.suffix != ".pyc" and (p.suffix != ".py" or p.parent.name == "pages")
    ]


class Build(build_py):
    """The same, without this file among the modules."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        found = super().find_package_modules(package, package_dir)
        return [module for module in found if module[:2] != ("medsec", "setup")]


setup(
    cmdclass={"build_py": Build},
    packages=["medsec", *(f"medsec.{name}" for name in PACKAGES)],
    package_dir={"medsec": "."},
    package_data={"medsec": data()},
    include_package_data=False,
)
