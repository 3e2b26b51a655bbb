"""`python -m refit.model`, which is `refit.model_table`: a room imports nothing above it."""

import runpy

runpy.run_module("refit.model_table", run_name="__main__")
