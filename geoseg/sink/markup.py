"""XML that any reader takes, whatever a name holds."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

__all__ = ["add", "legible"]

_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def add(parent: ET.Element, tag: str, text: str | None = None, **attributes: str | float) -> ET.Element:
    r"""The new last child of `parent`; characters that XML 1.0 cannot hold become U+FFFD.

    >>> root = ET.Element("legend")
    >>> _ = add(root, "entry", "wet\x00land", value=3)
    >>> ET.tostring(root)
    b'<legend><entry value="3">wet&#65533;land</entry></legend>'
    """
    child = ET.SubElement(parent, tag, {key: legible(str(value)) for key, value in attributes.items()})
    if text is not None:
        child.text = legible(text)
    return child


def legible(text: str) -> str:
    r"""`text` with U+FFFD for what XML 1.0 cannot hold.

    >>> legible("wet\x00land")
    'wet\ufffdland'
    """
    return _FORBIDDEN.sub("\ufffd", text)
