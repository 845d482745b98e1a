"""From labelled scenes to a model package: chips with an honest split, losses, the training loop, calibration.

Importing this package loads no torch; that waits for the modules that need it.
"""

from __future__ import annotations

__all__ = ["IGNORE"]

IGNORE = 255
"""Label of a pixel that nobody labelled, or that cannot be used."""
