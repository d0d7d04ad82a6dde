"""Going back to an encoder that was in use before, with every vector and the index made by it again.

Belongs here: this act over registry, vectors and index. Does not belong here: who wins a contest
(`evaluation/contest.py`); going back to an index generation, which is one rename (`index/files.py`).
"""

from __future__ import annotations

from datetime import UTC, datetime

from persona4rec_pipeline.runner import SILENT, STEPS, Finished, Listener, run_stale
from persona4rec_pipeline.settings import Settings
from persona4rec_pipeline.tracking import FORMER_CHAMPION, ROLLED_BACK, RegisteredEncoder, Tracking, TrackingError

# From the choice of the encoder to the published index.
STEPS_OF_AN_ENCODER = (("champion_encoder",), *STEPS[7:9])


def rollback_encoder(
    settings: Settings, version: str | None = None, listener: Listener = SILENT
) -> tuple[RegisteredEncoder, list[Finished]]:
    """Put a version of the encoder in use (default: the one before), embed everything with it, and publish.

    The version that was in use is marked and not promoted again by itself. The published index stays as it is until the
    new one is whole. Can be repeated after a failure. Raises TrackingError for a version that is not there, RunFailed.
    """
    tracking = Tracking(settings.mlflow_path)
    champion = tracking.champion()
    former = tracking.encoder(FORMER_CHAMPION)
    if version is None and former is None:
        raise TrackingError("No encoder was in use before this one; name a version.")
    there = {found.version: found for found in tracking.versions()}
    wanted = version or (former.version if former else "")
    if wanted not in there:
        raise TrackingError(f"There is no version {wanted} of the encoder; there are: {', '.join(there) or 'none'}.")
    if champion is not None and champion.version != wanted:
        tracking.set_tag(champion.version, ROLLED_BACK, f"{datetime.now(UTC):%Y-%m-%d}")
        tracking.set_champion(wanted)
    # What is chosen by hand may be promoted again when it is the newest.
    tracking.remove_tag(wanted, ROLLED_BACK)
    made = run_stale(
        settings, None, STEPS_OF_AN_ENCODER, listener, command="rollback-encoder", always=["champion_encoder"]
    )
    return there[wanted], made
