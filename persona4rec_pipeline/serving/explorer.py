"""The explorer: the page that shows a person what the index says, at `/` and `/static/*`.

Belongs here: serving the page's files, and the headers that keep the page to what is served here. Does not belong here: what
the page says (`static/`, plain ES modules and one style sheet, run as they are), the API it asks (`service`).

The files are read once, when the page is mounted, and only those are ever answered with: no path of a request reaches the disk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

# The page loads what this server serves and nothing else, runs no script and applies no style that stands in its markup, and
# nobody may put it in a frame. Styles set by its scripts are no part of the markup.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE = "index.html"
_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    # A browser asks each time, and is told in a few bytes that nothing changed: files of two versions never meet in a page.
    "cache-control": "no-cache",
}
# Not guessed from the machine's own table of types, which may call a script anything.
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True)
class PageFile:
    """One file of the page. etag: quoted, of its content."""

    body: bytes
    media_type: str
    etag: str


def page_files() -> Mapping[str, PageFile]:
    """The files of the page by name; other kinds of files in the folder are left alone."""
    found = {}
    for file in resources.files("persona4rec_pipeline.serving").joinpath("static").iterdir():
        media_type = _TYPES.get("." + file.name.rpartition(".")[2])
        if media_type is not None and file.is_file():
            body = file.read_bytes()
            found[file.name] = PageFile(body, media_type, f'"{hashlib.sha256(body).hexdigest()[:32]}"')
    return found


def mount_explorer(app: Starlette) -> None:
    """Serve the page at `/` and its files at `/static/{name}`; anything else under `/static/` is 404."""
    files = page_files()

    async def page(request: Request) -> Response:
        return _answer(request, files[PAGE])

    async def static(request: Request) -> Response:
        file = files.get(request.path_params["name"])
        if file is None:
            raise HTTPException(404, "The explorer page has no such file.")
        return _answer(request, file)

    app.router.add_route("/", page, include_in_schema=False)
    app.router.add_route("/static/{name:path}", static, include_in_schema=False)


def _answer(request: Request, file: PageFile) -> Response:
    headers = _HEADERS | {"etag": file.etag}
    if _names(request.headers.get("if-none-match", ""), file.etag):
        return Response(status_code=304, headers=headers)
    return Response(file.body, media_type=file.media_type, headers=headers)


def _names(header: str, etag: str) -> bool:
    """Whether If-None-Match names this content; a proxy that compressed it on the way may have made the tag a weak one."""
    tags = [tag.strip().removeprefix("W/") for tag in header.split(",")]
    return etag in tags or "*" in tags
