"""``python -m geoseg`` is the program ``geoseg``."""

from __future__ import annotations

from geoseg.cli import main

if __name__ == "__main__":
    main()
