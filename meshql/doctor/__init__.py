"""Why a connection does not work: everything a reader needs, looked at one by one."""

from __future__ import annotations
