"""Who may ask: API keys, and what is demanded of callers where there are none.

Belongs here: making, keeping, checking and revoking keys; the names a local server answers to; headers that protect a page.
Does not belong here: how often somebody may ask (`limits`).

A key is 256 random bits and shown once. Only its SHA-256 is kept, in <home>/serving/api-keys.json, which is readable by its
owner alone and replaced atomically: a reader sees the old keys or the new ones. Several are valid at once, so that a new key
can be in use before the old one is revoked.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import ipaddress
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from persona4rec_pipeline.settings import Settings

KEY_BYTES = 32
PREFIX = "p4r_"
FILE_NAME = "api-keys.json"
LOG_KEY_NAME = "log-key"

# An answer of the API is no page; a browser that is made to show one shows it without any power. The page has its own.
API_POLICY = b"default-src 'none'; frame-ancestors 'none'"
SECURITY_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")


class KeyProblem(ValueError):
    """A key cannot be made or revoked, or the file of keys cannot be read; the message says how to mend it."""


@dataclass(frozen=True)
class ApiKey:
    """What is kept of a key. Times are UTC, ISO 8601."""

    name: str
    sha256: str
    created_at: str
    expires_at: str | None = None
    revoked_at: str | None = None

    def is_valid(self, now: datetime) -> bool:
        """Whether it opens the door."""
        return self.revoked_at is None and (self.expires_at is None or now < datetime.fromisoformat(self.expires_at))


class ApiKeys:
    """The keys in a folder (`<home>/serving`); `refresh` takes over what another process changed."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE_NAME
        self._stamp: object = None
        self._keys: list[ApiKey] = []
        self._digests: list[tuple[bytes, ApiKey]] = []
        self.refresh()

    def refresh(self) -> None:
        """Read the file if it changed. Raises KeyProblem when it cannot be read; the keys read before then stay valid."""
        stamp = self._read_stamp()
        if stamp == self._stamp:
            return
        self._keys = self._read()
        self._digests = [(key.sha256.encode(), key) for key in self._keys]
        self._stamp = stamp

    def all(self) -> list[ApiKey]:
        """All keys, those that are not valid any more included, in the order of their making."""
        return list(self._keys)

    def any_valid(self) -> bool:
        """Whether somebody could pass."""
        now = datetime.now(UTC)
        return any(key.is_valid(now) for key in self._keys)

    def name_of(self, presented: bytes) -> str | None:
        """The name of a valid key, compared in constant time; None for anything else."""
        digest = hashlib.sha256(presented).hexdigest().encode()
        found = None
        for stored, key in self._digests:
            if hmac.compare_digest(stored, digest):
                found = key
        if found is None or not found.is_valid(datetime.now(UTC)):
            return None
        return found.name

    def add(self, name: str, expires_at: datetime | None = None) -> str:
        """Make a key and keep its hash; the key itself is returned and nowhere else. Raises KeyProblem for a name in use."""
        if not name.strip() or not name.isprintable() or len(name) > 100:
            raise KeyProblem("A key's name is 1 to 100 printable characters.")
        presented = PREFIX + secrets.token_urlsafe(KEY_BYTES)
        now = datetime.now(UTC)
        with self._changing() as keys:
            if any(key.name == name and key.is_valid(now) for key in keys):
                raise KeyProblem(f"There is a valid key {name!r} already; take another name, such as {name}-2.")
            key = ApiKey(
                name=name,
                sha256=hashlib.sha256(presented.encode()).hexdigest(),
                created_at=now.isoformat(timespec="seconds"),
                expires_at=None if expires_at is None else expires_at.astimezone(UTC).isoformat(timespec="seconds"),
            )
            keys.append(key)
        return presented

    def revoke(self, name: str) -> int:
        """Make all keys of that name invalid; how many there were. Raises KeyProblem when there is none."""
        now = datetime.now(UTC)
        with self._changing() as keys:
            places = [place for place, key in enumerate(keys) if key.name == name and key.revoked_at is None]
            if not places:
                raise KeyProblem(f"There is no key {name!r}; there are: {', '.join(k.name for k in keys) or 'none'}.")
            for place in places:
                keys[place] = replace(keys[place], revoked_at=now.isoformat(timespec="seconds"))
        return len(places)

    @contextmanager
    def _changing(self) -> Iterator[list[ApiKey]]:
        """The keys, to be changed; one process at a time, and written only when the block ends well."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            keys = self._read()
            yield keys
            self._write(keys)
        finally:
            os.close(lock)
        self.refresh()

    def _read_stamp(self) -> object:
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            return None
        return (stat.st_ino, stat.st_mtime_ns, stat.st_size)

    def _read(self) -> list[ApiKey]:
        try:
            stated = json.loads(self.path.read_text(encoding="utf-8"))
            return [ApiKey(**entry) for entry in stated["keys"]]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise KeyProblem(
                f"{self.path} cannot be read ({error}). Restore it, or remove it and make keys with "
                "`persona4rec api-key add NAME`."
            ) from error

    def _write(self, keys: Sequence[ApiKey]) -> None:
        write_private(self.path, json.dumps({"keys": [asdict(key) for key in keys]}, indent=2) + "\n")


def write_private(path: Path, text: str) -> None:
    """A file that its owner alone may read, there as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}-{os.getpid()}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def log_key(folder: Path) -> bytes:
    """The secret with which users are hashed in logs, made on first need and kept, so that a user's lines can be joined."""
    path = folder / LOG_KEY_NAME
    try:
        return bytes.fromhex(path.read_text(encoding="ascii").strip())
    except (FileNotFoundError, ValueError):
        made = secrets.token_bytes(KEY_BYTES)
        write_private(path, made.hex() + "\n")
        return made


def hashed_user(key: bytes, user_id: str) -> str:
    """12 hexadecimal digits that stand for a user in a log, and lead nowhere without the key."""
    return hashlib.blake2b(user_id.encode(), key=key, digest_size=6).hexdigest()


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def keys_required(settings: Settings) -> bool:
    """Whether nobody is answered without a key: where the settings say so, and where others than this machine can ask."""
    return settings.serving.require_key or not is_loopback(settings.serving.host)


def check_door(settings: Settings) -> None:
    """Raises KeyProblem, saying how to make one, where a key is required and there is no valid one: nobody could pass."""
    if keys_required(settings) and not ApiKeys(settings.serving_path).any_valid():
        why = (
            "serving.require_key is set"
            if settings.serving.require_key
            else f"{settings.serving.host} is reached from other machines"
        )
        raise KeyProblem(
            f"{why}, so that an API key is required, and there is no valid one. Make one with `persona4rec api-key add "
            "NAME`, or serve on 127.0.0.1."
        )


def host_name(header: bytes) -> str:
    """The name in a Host header, lower case and without port."""
    name = header.decode("latin-1").strip().lower()
    if name.startswith("["):
        return name.partition("]")[0] + "]"
    return name.partition(":")[0]
