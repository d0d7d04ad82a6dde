"""The catalogues that come with the package, so that a first run needs no data of one's own.

Only data and the way to find it belong here. The files are written by ``python -m scripts.write_sample``; mend a
sentence there, never here. Readers and reviews are invented; books, authors and plots are real.
"""

from pathlib import Path

CATALOGUES = ("books", "new-arrivals")


def sample_path(name: str) -> Path:
    """Return the folder of a bundled catalogue, which holds ``items.jsonl`` and ``reviews.jsonl``."""
    if name not in CATALOGUES:
        raise ValueError(f"there is no bundled catalogue {name!r}; the choices are: {', '.join(CATALOGUES)}")
    return Path(__file__).parent / name
