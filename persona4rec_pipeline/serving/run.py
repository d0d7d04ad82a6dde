"""Start the server, with as many workers as the settings say.

Belongs here: uvicorn's options, the log, and what must be there before the first worker starts. Does not belong here: the
application (`service`).
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from persona4rec_pipeline.serving.metrics import MULTIPROCESS_VARIABLE
from persona4rec_pipeline.serving.security import check_door
from persona4rec_pipeline.settings import Settings

FACTORY = "persona4rec_pipeline.serving.service:app_from_environment"
PROTOCOL = "persona4rec_pipeline.serving.protocol:OneWriteProtocol"
KEEP_ALIVE_S = 75
BACKLOG = 4096


class JsonLines(logging.Formatter):
    """Each record as one line of JSON, as the access log has them; of an exception its kind and its place, not its words,
    which may be a caller's."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        stated: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        kind, _, trace = record.exc_info or (None, None, None)
        if kind is not None:
            stated["error"] = kind.__name__
            places = []
            while trace is not None:
                code = trace.tb_frame.f_code
                places.append(f"{Path(code.co_filename).name}:{trace.tb_lineno} {code.co_name}")
                trace = trace.tb_next
            stated["where"] = places[-10:]
        return msgspec.json.encode(stated).decode()


def configure_log() -> None:
    """Lines of JSON on the standard error stream, of this package and of the server."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name, level in (("persona4rec_pipeline", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(level)


def run_server(settings: Settings) -> None:
    """Serve until the process is told to end (SIGTERM, SIGINT); requests in flight are answered first. Each worker reads the
    settings anew, from file and environment. Raises KeyProblem where keys are required and there are none."""
    check_door(settings)
    if settings.serving.workers == 1:
        _run(settings)
        return
    with tempfile.TemporaryDirectory(prefix="persona4rec-metrics-") as folder:
        # Read when prometheus_client is imported, in the workers.
        os.environ[MULTIPROCESS_VARIABLE] = folder
        try:
            _run(settings)
        finally:
            del os.environ[MULTIPROCESS_VARIABLE]


def _run(settings: Settings) -> None:
    import uvicorn

    serving = settings.serving
    uvicorn.run(
        FACTORY,
        factory=True,
        host=serving.host,
        port=serving.port,
        workers=serving.workers,
        loop="uvloop",
        http=PROTOCOL,
        proxy_headers=serving.behind_proxy,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=serving.shutdown_s,
    )
