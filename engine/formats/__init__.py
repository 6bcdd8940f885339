"""File formats: splitting into masked file and patches, and restoring. See :mod:`engine.images`."""
