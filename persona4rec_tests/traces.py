"""What is left of deleted data in the files of a home."""

from pathlib import Path


def files_that_hold(home: Path, *texts: str) -> set[str]:
    """Every file of a state directory, but the sources, in which one of the texts stands as it is."""
    found = set()
    for path in home.rglob("*"):
        if path.is_file() and "incoming" not in path.parts:
            data = path.read_bytes()
            found |= {str(path.relative_to(home)) for text in texts if text.encode() in data}
    return found
