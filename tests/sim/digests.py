"""What tells whether two collections are the same."""

import hashlib
from pathlib import Path


def content(root: Path) -> dict[str, str]:
    """Digest every published file."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.name[0] != ".")
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
