"""Many points: expand, skip what is impossible or done, run the rest, and collect."""

from refit import early

early.quiet()
