"""A shell script, or a pasted command, read and never run: the one command that has the flags."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import takewhile

from refit.errors import UserError
from refit.importers import shell_words
from refit.importers.shell_values import (
    Value,
    Values,
    as_list,
    expanded,
    holds,
    is_computed,
    text_of,
)

_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)(?:\[\w+\])?(\+?)=(.*)", re.DOTALL)
_PROGRAM = re.compile(r".+\.(py|sh|slurm|sbatch)")
_BEFORE_A_NAME = {"export", "declare", "local", "readonly", "exec", "time", "-x", "-a", "env"}
MEGATRONS = "Megatron's: ./benchmark_refit_sbatch.sh --tensor-model-parallel-size 2 ..."
"""Whose flags are wanted, and how a command with them looks."""

_TESTS = {"[", "[[", "test"}
SAYS = re.compile(r"--|\+*[A-Za-z_][\w.]*\+?=")


@dataclass
class Command:
    """What a script runs, its variables put in.

    Attributes:
        launcher: what stands before the program, such as `torchrun --nproc_per_node 8`.
        program: such as `pretrain_gpt.py`; empty where flags alone are given.
        arguments: what follows it.
        environment: what the script exports, or puts before the command.
        skipped: what is read under a condition that does not hold, with what it says.
        documents: texts between `<<EOF` and `EOF`.
    """

    launcher: list[str]
    program: str
    arguments: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    documents: list[str] = field(default_factory=list)

    def launched(self, *names: str) -> str | None:
        """The value of one of the launcher's options, whose words may be joined by - or _."""
        for at, word in enumerate(self.launcher):
            name, equals, given = word.partition("=")
            if name.replace("_", "-") in names:
                return given if equals else next(iter(self.launcher[at + 1 :]), None)
        return None


def command_of(words: Sequence[str], environment: dict[str, str] | None = None) -> Command:
    """The parts of one command's words."""
    environment = dict(environment or {})
    words = list(words)
    while words and (found := _ASSIGNMENT.fullmatch(words[0])):
        environment[found[1]] = found[3]
        del words[0]
    first_flag = next((n for n, w in enumerate(words) if w.startswith("--")), len(words))
    programs = [n for n, word in enumerate(words) if _PROGRAM.fullmatch(word)]
    # of a launcher with options, the first program behind them
    at = next((n for n in programs if n < first_flag or words[0] != words[n]), None)
    if at is None or (first_flag == 0):
        return Command(words[:first_flag], "", words[first_flag:], environment)
    return Command(words[:at], words[at], words[at + 1 :], environment)


def read(
    text: str,
    variables: Mapping[str, str],
    has_flags: Callable[[Sequence[str]], bool],
    wanted: str = MEGATRONS,
) -> Command:
    """The command of a script that has the flags that are asked for.

    Assignments, arrays, `${NAME:-default}`, sums of whole numbers, comments and continued lines are
    read as bash does, and `if`, `case`, `&&` and `||` where they ask whether a variable is empty,
    equal or greater. A variable without a value stays as it is written.

    Args:
        variables: as they are in the environment; they win over defaults alone.
        has_flags: whether the words of a command have one of these flags.
        wanted: see `MEGATRONS`.

    Raises:
        UserError: there is no such command, or more than one; a quote is not closed.
    """
    shell = shell_words.parsed(text)
    state = _State(dict(variables), shell.computed)
    commands = [words for words in _commands(shell.statements, state) if has_flags(words)]
    whose, _, example = wanted.partition(": ")
    if not commands:
        within = unknown(Command([], "", [], skipped=[b for b in state.skipped if " --" in b]))
        raise UserError(
            f"no command with {whose} flags is in it; what is looked for is such as"
            f" '{example}'{within}"
        )
    if len(commands) > 1:
        starts = "; ".join(" ".join(words[:3]) + " ..." for words in commands)
        raise UserError(f"{len(commands)} commands have {whose} flags, one is read: {starts}")
    made = command_of(commands[0], state.exported)
    made.skipped, made.documents = state.skipped, shell.documents
    return made


def unknown(command: Command) -> str:
    """What to add where something is missing: conditions that only a shell can answer."""
    asks = []
    for block in command.skipped:
        condition = list(takewhile(lambda word: not SAYS.match(word), block.split()))
        if is_computed(" ".join(condition)):
            asks.append(" ".join(condition))
    listed = "; ".join(list(dict.fromkeys(asks))[:2]) + "; ..." * (len(set(asks)) > 2)
    return (
        f"; not read, as it does not hold or only a shell knows whether it holds: {listed}"
        if asks
        else ""
    )


@dataclass
class _Branch:
    """An `if` or `case` that is open.

    Attributes:
        words: of the condition; of a `case`, its subject.
        read: whether this branch of it is.
        taken: whether one was.
        asks: its condition goes on.
    """

    words: list[str]
    read: bool
    taken: bool
    asks: bool = False


@dataclass
class _State(Values):
    """What is known on the way down a script."""

    exported: dict[str, str] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    branches: list[_Branch] = field(default_factory=list)
    succeeds: bool = True  # the last command, for `&&` and `||`

    @property
    def is_read(self) -> bool:
        return all(branch.read for branch in self.branches)

    def skips(self, words: Sequence[str]) -> None:
        """Keep a condition that does not hold."""
        self.skipped.append(self.as_written(" ".join(words)))


def _commands(statements: Sequence[shell_words.Statement], state: _State) -> Iterator[list[str]]:
    """The words of each command that would be run; assignments go into `state`.

    Lines that begin with a flag go on with the command before them: so flags alone can be pasted.
    """
    pending: list[str] = []
    for statement in statements:
        if statement.words[0].startswith("--") and pending:
            pending += expanded(statement.words, state)
            continue
        done = _one(statement, state)
        if done:
            if pending:
                yield pending
            pending = done
    if pending:
        yield pending


def _one(statement: shell_words.Statement, state: _State) -> list[str] | None:
    """The words of a command with values put in; None of what is no command, or is not run."""
    words, after = statement.words, statement.after
    branch = state.branches[-1] if state.branches else None
    if branch and branch.asks and words[0] != "then":  # `[ a ] && [ b ]` behind an `if`
        more = holds(words, state)
        branch.read = (branch.read and more) if after == "&&" else (branch.read or more)
        branch.words += [after, *words]
        return None
    while words and words[0] in _KEYWORDS:
        words = _keyword(words[0], words[1:], state)
    if not words:
        return None
    if not state.is_read or (after and state.succeeds != (after == "&&")):
        says = [state.as_written(word) for word in words if SAYS.match(word) and word[-1] != "="]
        if says and state.skipped:
            state.skipped[-1] += " " + " ".join(says)
        return None
    state.succeeds = words[0] not in _TESTS or holds(words, state)
    if not state.succeeds:
        state.skips(words)
    return None if words[0] in _TESTS else _assigned(words, state)


_KEYWORDS = {"if", "then", "elif", "else", "fi", "case", "esac", shell_words.PATTERN,
             "do", "done", "{", "}", "!"}  # fmt: skip


def _keyword(word: str, rest: list[str], state: _State) -> list[str]:
    """Which branch is read behind it; what else follows it in the statement."""
    if word == "if":
        reads = state.is_read
        state.branches.append(_Branch(rest, reads and holds(rest, state), not reads, asks=True))
        return []
    if word == "case":
        subject = text_of(rest[0], state, unset="") if rest else ""
        state.branches.append(_Branch([subject], False, not state.is_read))
        return []
    if not state.branches or word in ("do", "done", "{", "}", "!"):
        return rest
    branch = state.branches[-1]
    if word in ("fi", "esac"):
        state.branches.pop()
    elif word == "elif":
        branch.words, branch.read, branch.asks = rest, holds(rest, state), True
    elif word == "then":
        branch.asks = False
        _enter(branch, branch.read, ["if", *branch.words], state)
        return rest
    elif word == "else":
        _enter(branch, True, [], state)
        return rest
    else:  # a pattern
        subject = " ".join(branch.words)  # one, where each `if` before it has its `fi`
        met = any(fnmatchcase(subject, pattern) for pattern in rest) and not is_computed(subject)
        _enter(branch, met, ["case", subject, *rest], state)
    return []


def _enter(branch: _Branch, met: bool, condition: list[str], state: _State) -> None:
    """Read this branch if its condition is met, and none before it was; else say so."""
    branch.read = met and not branch.taken
    if not met and not branch.taken:
        state.skips(condition)
    branch.taken = branch.taken or met


def _assigned(words: list[str], state: _State) -> list[str] | None:
    """Take assignments off the front; what is left is a command, with values put in."""
    exporting = words[0] == "export"
    rest = words
    while rest and rest[0] in _BEFORE_A_NAME:
        rest = rest[1:]
    taken: dict[str, Value] = {}
    while rest and (found := _ASSIGNMENT.fullmatch(rest[0])):
        name, more, text = found.groups()
        rest = rest[1:]
        value: Value
        if text == "" and rest[:1] == ["("]:
            end = rest.index(")") if ")" in rest else len(rest)
            value, rest = expanded(rest[1:end], state), rest[end + 1 :]
        else:
            value = text_of(text, state)
        before = state.variables.get(name)
        if more and before is not None:
            value = _joined(before, value)
        taken[name] = value
        if exporting or not rest:
            state.variables[name] = value
    if exporting or rest:
        state.exported |= {k: v for k, v in taken.items() if isinstance(v, str)}
    return expanded(rest, state) if rest and not exporting else None


def _joined(before: Value, value: Value) -> Value:
    if isinstance(before, str) and isinstance(value, str):
        return before + value
    return [*as_list(before), *as_list(value)]
