"""Model packages: finding, reading, checking, running and saving them.

Reading a card loads neither torch nor weights; whatever runs a net is imported when it is asked for.
"""

from __future__ import annotations

from geoseg.models.loading import load_model, validate_package
from geoseg.models.package import list_models, package_path, read_spec
from geoseg.models.save import save_package

__all__ = ["list_models", "load_model", "package_path", "read_spec", "save_package", "validate_package"]
