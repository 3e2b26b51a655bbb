"""What makes a job impossible: every rule asked, before any rank starts and without torch.

A rule is a small function that returns a reason with its numbers, or None. Those about single
values are in `refit.rules.values`, those about the model in `refit.rules.model`, those about
layouts and the machine in `refit.rules.layout` and `divides`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from refit.errors import UserError
from refit.job import Job
from refit.layout.place import place
from refit.rules.layout import FIRST, LAYOUT
from refit.rules.model import MODEL
from refit.rules.stated_memory import weights_fit
from refit.rules.values import VALUES


def impossible(job: Job) -> str | None:
    """The first reason why this job cannot run, or None."""
    return next(iter(reasons(job)), None)


def reasons(job: Job) -> list[str]:
    """Every reason why this job cannot run; a value out of range hides the reasons behind it."""
    if of_values := _collect(partial(rule, job) for rule in VALUES):
        return of_values
    of_model = _collect(partial(rule, job) for rule in (*FIRST, *MODEL))
    try:
        placement = place(job)
    except UserError as error:
        return [*of_model, str(error)]
    of_layout = _collect(partial(rule, job, placement) for rule in LAYOUT)
    if found := list(dict.fromkeys([*of_model, *of_layout])):
        return found
    return _collect([partial(weights_fit, job, placement)])


def _collect(rules: Iterable[Callable[[], str | None]]) -> list[str]:
    """What each rule says; a rule that raises UserError says its text."""
    texts = []
    for rule in rules:
        try:
            reason = rule()
        except UserError as error:
            reason = str(error)
        if reason:
            texts.append(reason)
    return texts
