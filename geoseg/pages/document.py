"""Pages that open from disk: one file, which its own Content-Security-Policy forbids to ask anybody for anything."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from string import Template

__all__ = ["filled_page"]


def filled_page(template: Path, **parts: str) -> str:
    """A template filled with `parts`, which are markup already, under a policy for its own scripts and styles.

    The template holds ``$policy`` where the policy belongs.
    """
    page = Template(template.read_text(encoding="utf-8"))
    own = {
        kind: re.findall(f"<{kind}>(.*?)</{kind}>", page.safe_substitute(parts), re.DOTALL)
        for kind in ("script", "style")
    }
    sources = "".join(f"; {kind}-src {' '.join(map(_digest, texts))}" for kind, texts in own.items() if texts)
    return page.substitute(
        parts, policy=f"default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'{sources}"
    )


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
