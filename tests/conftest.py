from __future__ import annotations

from clouds.fixtures import azure, azurite_program, gcs, retail, s3, stores_folder
from clouds.postgres import postgres

__all__ = ["azure", "azurite_program", "gcs", "postgres", "retail", "s3", "stores_folder"]
