"""File formats: how each comes apart and together again. The door is :mod:`engine.images`."""
