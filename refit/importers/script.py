"""A shell script, or a pasted command, read and never run: the one command that has the flags."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from refit.job import UserError

Value = str | list[str]

_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)(?:\[\w+\])?(\+?)=(.*)", re.DOTALL)
_VARIABLE = re.compile(r"\$\{(\w+|[@*])(\[[@*]\])?(?::?-([^}]*))?\}|\$(\w+|[@*])")
_COMPUTED = re.compile(r"\$\(\(.*?\)\)|\$\([^()]*\)|`[^`]*`")
_PROGRAM = re.compile(r".+\.(py|sh|slurm|sbatch)")
_BEFORE_A_NAME = {"export", "declare", "local", "readonly", "exec", "time", "-x", "-a", "env"}
_SEPARATORS = {";", ";;", "&", "&&", "||", "|", "\n", "|&"}


@dataclass
class Command:
    """What a script runs, its variables put in.

    Attributes:
        launcher: what stands before the program, such as `torchrun --nproc_per_node 8`.
        program: such as `pretrain_gpt.py`; empty where flags alone are given.
        arguments: what follows it.
        environment: what the script exports, or puts before the command.
        skipped: blocks of `if` whose condition does not hold, with the flags in them.
    """

    launcher: list[str]
    program: str
    arguments: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

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
    text: str, variables: Mapping[str, str], has_flags: Callable[[Sequence[str]], bool]
) -> Command:
    """The command of a script that has the flags that are asked for.

    Assignments, arrays, `${NAME:-default}`, comments and continued lines are read as bash does, and
    `if` where it asks whether a variable is empty or equal. A variable without a value stays as it
    is written.

    Args:
        variables: as they are in the environment; they win over defaults alone.
        has_flags: whether the words of a command have one of these flags.

    Raises:
        UserError: there is no such command, or more than one; a quote is not closed.
    """
    state = _State(dict(variables))
    commands = [words for words in _statements(text, state) if has_flags(words)]
    if not commands:
        raise UserError(
            "no command with Megatron's flags is in it; what is looked for is such as"
            " './benchmark_refit_sbatch.sh --tensor-model-parallel-size 2 ...'"
        )
    if len(commands) > 1:
        starts = "; ".join(" ".join(words[:3]) + " ..." for words in commands)
        raise UserError(f"{len(commands)} commands have Megatron's flags, one is read: {starts}")
    made = command_of(commands[0], state.exported)
    made.skipped = state.skipped
    return made


@dataclass
class _State:
    """What is known on the way down a script."""

    variables: dict[str, Value]
    exported: dict[str, str] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    # of each `if` that is open: whether this branch is read, and whether one was
    branches: list[tuple[bool, bool]] = field(default_factory=list)

    @property
    def is_read(self) -> bool:
        return all(read for read, _ in self.branches)


def _statements(text: str, state: _State) -> Iterator[list[str]]:
    """The words of each command that would be run; assignments go into `state`.

    Lines that begin with a flag go on with the command before them: so flags alone can be pasted.
    """
    pending: list[str] = []
    for words in _split(text):
        if words[0].startswith("--") and pending:
            pending += _expanded(words, state)
            continue
        done = _one(words, state)
        if done:
            if pending:
                yield pending
            pending = done
    if pending:
        yield pending


def _one(words: list[str], state: _State) -> list[str] | None:
    """The words of a command with values put in; None of what is no command, or is not run."""
    while words and words[0] in ("then", "else", "elif", "fi", "do", "done", "{", "}", "!"):
        _branch(words, state)
        words = words[1:] if words[0] not in ("elif", "fi") else []
    if words and words[0] == "if":
        holds = _holds(words[1:], state) if state.is_read else False
        if state.is_read and not holds:
            state.skipped.append(" ".join(words))
        state.branches.append((holds, holds))
        return None
    if not words:
        return None
    if not state.is_read:
        flags = [word for word in words if word.startswith("--")]
        if flags and state.skipped:
            state.skipped[-1] += " " + " ".join(flags)
        return None
    return _assigned(words, state)


def _branch(words: list[str], state: _State) -> None:
    """`else`, `elif` and `fi` change which branch is read."""
    if words[0] == "fi" and state.branches:
        state.branches.pop()
    elif words[0] in ("else", "elif") and state.branches:
        _, taken = state.branches.pop()
        holds = not taken and (words[0] == "else" or _holds(words[1:], state))
        state.branches.append((holds, taken or holds))


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
            value, rest = _expanded(rest[1:end], state), rest[end + 1 :]
        else:
            value = _text(text, state)
        before = state.variables.get(name)
        if more and before is not None:
            value = _joined(before, value)
        taken[name] = value
        if exporting or not rest:
            state.variables[name] = value
    if exporting or rest:
        state.exported |= {k: v for k, v in taken.items() if isinstance(v, str)}
    return _expanded(rest, state) if rest and not exporting else None


def _joined(before: Value, value: Value) -> Value:
    if isinstance(before, str) and isinstance(value, str):
        return before + value
    return [*_as_list(before), *_as_list(value)]


def _as_list(value: Value) -> list[str]:
    return [value] if isinstance(value, str) else value


def _holds(words: Sequence[str], state: _State) -> bool:
    """Whether `[ -n "$X" ]`, `-z`, `=`, `==` or `!=` holds; of other conditions False."""
    inner = [_text(word, state, unset="") for word in words if word not in ("[", "[[", "]", "]]")]
    match inner:
        case ["-n"]:
            return False
        case ["-z"]:
            return True
        case ["-n", word]:
            return word != ""
        case ["-z", word]:
            return word == ""
        case [left, "=" | "==" | "-eq", right]:
            return left == right
        case [left, "!=" | "-ne", right]:
            return left != right
    return False


def _expanded(words: Sequence[str], state: _State) -> list[str]:
    """Words with variables put in: an array, or a text of flags, becomes several words."""
    found: list[str] = []
    for word in words:
        whole = _VARIABLE.fullmatch(word)
        value = state.variables.get(whole[1] or whole[4]) if whole else None
        if isinstance(value, list):
            found += value
        elif isinstance(value, str) and value.lstrip().startswith("-") and " " in value.strip():
            found += value.split()
        elif whole and (whole[1] or whole[4]) in ("@", "*"):
            continue  # the script's own arguments, which are given behind it
        else:
            found.append(_text(word, state))
    return found


def _text(word: str, state: _State, unset: str | None = None) -> str:
    """A word with variables put in; `unset` in place of one without a value, or as written."""

    def put_in(found: re.Match[str]) -> str:
        value = state.variables.get(found[1] or found[4])
        if value is None or value == "":
            if found[3] is not None:
                return _text(found[3], state, unset)
            return found[0] if unset is None and value is None else unset or ""
        return " ".join(_as_list(value))

    return _VARIABLE.sub(put_in, word)


def _split(text: str) -> Iterator[list[str]]:
    """The words of each statement, quotes taken off; an array's brackets are words of it."""
    statement: list[str] = []
    depth = 0
    for words in _lines(text):
        skip = False
        for word in words:
            if skip:
                skip = False
            elif set(word) <= set("<>&") and set(word) & set("<>"):
                skip = True  # where output goes
            elif word in _SEPARATORS and not depth:
                if statement:
                    yield statement
                statement = []
            elif word != "\n":
                depth += (word == "(") - (word == ")")
                statement.append(word)
    if statement:
        yield statement


def _lines(text: str) -> Iterator[list[str]]:
    """Words of each line, which ends in a newline of its own; a quote may go over several.

    A backslash at the end goes on with the next line, also with blanks or a comment behind it.
    """
    text = re.sub(r"\\[ \t]*(#[^\n]*)?(\r?\n|$)", " ", text)
    text = _COMPUTED.sub("${computed}", text)
    text = re.sub(r"(?<!\S)\d+(?=[<>])", "", text)  # whose output goes there
    kept = ""
    for line in text.splitlines():
        kept += line
        lexer = shlex.shlex(kept, posix=True, punctuation_chars="();<>|&")
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError:  # no closing quotation: it is on a later line
            kept += " "
            continue
        kept = ""
        yield [*_brackets(words), "\n"]
    if kept.strip():
        raise UserError(f"a quote is not closed: {' '.join(kept.split())[:60]}")


def _brackets(words: Sequence[str]) -> Iterator[str]:
    """Punctuation as single words: `);` is `)` and `;`."""
    for word in words:
        if word and set(word) <= set("();"):
            yield from word if word != ";;" else (word,)
        else:
            yield word
