"""The commit that an archive or a wheel was made of: git, or setup.py, writes it in there.

In a checkout it is not filled in, and git is asked (`refit.record.code`).
"""

from __future__ import annotations

COMMIT: str = "$Format:%H$"
DIRTY: bool | None = None  # of a wheel, whether files differed; nobody knows it of an archive
