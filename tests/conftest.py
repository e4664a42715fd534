from __future__ import annotations

from clouds.fixtures import azure, azurite_program, gcs, retail, s3, stores_folder

__all__ = ["azure", "azurite_program", "gcs", "retail", "s3", "stores_folder"]
