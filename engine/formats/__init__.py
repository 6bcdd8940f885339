"""File formats: how each comes apart and together again; see :mod:`engine.formats.images`."""
