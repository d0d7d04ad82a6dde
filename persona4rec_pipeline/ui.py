"""Dagster's UI with its daemon, and MLflow's beside it, as one command.

Belongs here: starting and stopping the two servers. Does not belong here: anything that they show.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from persona4rec_pipeline.runner import prepare_dagster_home
from persona4rec_pipeline.settings import Settings, settings_file

# Seconds that a server gets to stop before it is killed.
STOP_S = 20.0


def run_servers(settings: Settings, dagster_port: int, mlflow_port: int) -> int:
    """Run both servers on 127.0.0.1 until one of them ends or the user interrupts; returns the exit code.

    Both signals to stop are taken here, whatever the shell that started this says of them: one that starts a command in
    the background makes it, and all that it starts, ignore the interrupt, and the servers would outlive this process.
    """
    prepare_dagster_home(settings)
    settings.mlflow_path.mkdir(parents=True, exist_ok=True)
    workspace = Path(__file__).parent.parent / "workspace.yaml"
    location = ["-w", str(workspace)] if workspace.exists() else ["-m", "persona4rec_pipeline.definitions"]
    commands = {
        "Dagster": [sys.executable, "-m", "dagster", "dev", *location, "-h", "127.0.0.1", "-p", str(dagster_port)],
        "MLflow": [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(mlflow_port), "--workers", "1",
            "--backend-store-uri", f"sqlite:///{settings.mlflow_path / 'mlflow.db'}",
            "--artifacts-destination", str(settings.mlflow_path / "artifacts"),
        ],
    }  # fmt: skip
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, _interrupt)
    # In the state directory and not in the checkout: Dagster reads a .env file of the folder that it is started in, and
    # what stands there would win over the settings of this call.
    environment = {**os.environ, "PERSONA4REC_HOME": str(settings.home)}
    if (configuration := settings_file()) is not None:
        environment["PERSONA4REC_CONFIG"] = str(configuration.absolute())
    servers = {
        name: subprocess.Popen(command, cwd=settings.home, env=environment) for name, command in commands.items()
    }
    try:
        while all(server.poll() is None for server in servers.values()):
            time.sleep(0.5)
        return next(server.returncode for server in servers.values() if server.poll() is not None)
    except KeyboardInterrupt:
        return 0
    finally:
        for server in servers.values():
            server.send_signal(signal.SIGINT)
        for server in servers.values():
            try:
                server.wait(STOP_S)
            except subprocess.TimeoutExpired:
                server.kill()


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt
