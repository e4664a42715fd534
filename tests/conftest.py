from __future__ import annotations

import os

import pytest
from clouds.fixtures import azure, azurite_program, gcs, retail, s3, session_azure, stores_folder
from clouds.postgres import decoding, postgres

__all__ = ["azure", "azurite_program", "decoding", "gcs", "postgres", "retail", "s3", "stores_folder"]

EMULATOR = "AZURITE_BLOB_STORAGE_URL"


@pytest.fixture(autouse=True, scope="session")
def _state_of_the_session(tmp_path_factory):
    """Keep what commands remember, the log of runs among it, out of the user's own folder."""
    if "XDG_STATE_HOME" in os.environ:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(autouse=True)
def _emulator_of_the_session():
    """Leave the session's emulator as the only one of Azure that delta-kernel knows, once it is up."""
    found = os.environ.get(EMULATOR)
    yield
    found = session_azure.get(EMULATOR, found)
    if found is None:
        os.environ.pop(EMULATOR, None)
    else:
        os.environ[EMULATOR] = found
