"""What models, pairs, methods and clusters may be called."""

from __future__ import annotations

from operator import attrgetter

from refit.job import Job

NAMES = ("model.name", "parallel.name", "refit.name", "cluster.name")
LONGEST = 80


def are_parts_of_a_path(job: Job) -> str | None:
    """A name is one component of a path that people can read: it is in that of a point's folder."""
    derived = job.parallel.use_case.startswith("from ")  # of what its sides are; see refit.naming
    for field in NAMES:
        name = attrgetter(field)(job)
        longest = 2 * LONGEST if derived and field == "parallel.name" else LONGEST
        readable = name.isprintable() and name == name.strip() and "/" not in name
        if not readable or name in ("", ".", "..") or len(name.encode()) > longest:
            shown = name if len(name) <= LONGEST else f"{name[:LONGEST]}..."
            return (
                f"{field}={shown!r}: a name is a part of a folder's name: 1 to {LONGEST} printable"
                " characters (bytes of UTF-8), without a slash or spaces around it, and not . or .."
            )
    return None
