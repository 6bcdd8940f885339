"""The demo: invented patients on real pictures, sealed by the real pipeline."""
