"""The text of a shell script -> its statements, as words. Nothing is run and nothing is put in."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field

from refit.errors import UserError

_SEPARATORS = {";", ";;", "&", "&&", "||", "|", "\n", "|&"}
_DOCUMENT = re.compile(r"(?<!<)<<-?\s*([\"']?)(\w+)\1")
_COMPUTED = re.compile(r"\$\(|`[^`\n]*`")


@dataclass
class Statement:
    """One command, or a part of `if` or `case`.

    Attributes:
        words: with quotes taken off; brackets of arrays are words.
        after: what stands before it: `&&`, `||`, or nothing that asks how the last one went.
    """

    words: list[str]
    after: str = ""


@dataclass
class Shell:
    """A script's parts.

    Attributes:
        statements: in the order of the text. The patterns of a `case` are one that begins with
            PATTERN.
        computed: what only a shell can say, by the name of the variable that stands in its place.
        documents: texts between `<<EOF` and `EOF`.
    """

    statements: list[Statement]
    computed: dict[str, str] = field(default_factory=dict)
    documents: list[str] = field(default_factory=list)


PATTERN = "pattern)"


def parsed(text: str) -> Shell:
    """The parts of a script.

    Raises:
        UserError: a quote is not closed.
    """
    shell = Shell([])
    text = _without_documents(text, shell.documents)
    # a backslash at the end goes on with the next line, also with blanks or a comment behind it
    text = re.sub(r"\\[ \t]*(#[^\n]*)?(\r?\n|$)", " ", text)
    text = re.sub(r"\$#|\$\{#[^}]*\}", "${number_of_words}", text)  # no comments
    text = _without_computed(text, shell.computed)
    text = re.sub(r"(?<!\S)\d+(?=[<>])", "", text)  # whose output goes there
    shell.statements = list(_statements(text))
    return shell


def _without_documents(text: str, documents: list[str]) -> str:
    kept: list[str] = []
    lines = iter(text.splitlines())
    for line in lines:
        if line.lstrip().startswith("#"):
            kept.append("#")  # what it has of quotes and brackets means nothing
            continue
        kept.append(line)
        if found := _DOCUMENT.search(line):
            inside = []
            for inner in lines:
                if inner.strip() == found[2]:
                    break
                inside.append(inner)
            documents.append("\n".join(inside))
    return "\n".join(kept)


def _without_computed(text: str, computed: dict[str, str]) -> str:
    """Put `${computed_1}` for `$(...)`, `$((...))` and backticks."""
    kept, at = "", 0
    while found := _COMPUTED.search(text, at):
        end = found.end()
        if found[0] == "$(":
            depth = 1
            while depth and end < len(text):
                depth += (text[end] == "(") - (text[end] == ")")
                end += 1
        name = f"computed_{len(computed) + 1}"
        computed[name] = text[found.start() : end]
        kept += text[at : found.start()] + f"${{{name}}}"
        at = end
    return kept + text[at:]


def _statements(text: str) -> Iterator[Statement]:
    """Words up to a separator; within an array's brackets there is none."""
    now = Statement([])
    depth, skip = 0, False
    cases: list[bool] = []  # of each `case` that is open: whether a pattern comes next
    for word in _words(text):
        ends = False
        if skip:
            skip = False
        elif set(word) <= set("<>&") and set(word) & set("<>"):
            skip = True  # where output goes
        elif cases and cases[-1] and word not in ("\n", "esac"):
            if word == ")":
                cases[-1] = False
                now.words.insert(0, PATTERN)
                ends = True
            elif word not in ("|", "("):
                now.words.append(word)
        elif word in _SEPARATORS and not depth:
            ends = True
        elif word == ")" and not depth:
            ends = True  # of a subshell
        elif word != "\n":
            depth += (word == "(") - (word == ")")
            now.words.append(word)
            ends = _opens_case(now.words, cases) or word == "esac"
        if word == ";;" and cases:
            cases[-1] = True
        if word == "esac" and cases:
            cases.pop()
        if ends:
            if now.words:
                yield now
            now = Statement([], word if word in ("&&", "||") else "")
    if now.words:
        yield now


def _opens_case(words: list[str], cases: list[bool]) -> bool:
    opens = words[0] == "case" and words[-1] == "in"
    if opens:
        cases.append(True)
    return opens


def _words(text: str) -> Iterator[str]:
    """Words of each line, which ends in a newline of its own; a quote may go over several."""
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
        yield from _brackets(words)
        yield "\n"
    if kept.strip():
        raise UserError(f"a quote is not closed: {' '.join(kept.split())[:60]}")


def _brackets(words: list[str]) -> Iterator[str]:
    """Punctuation as single words: `);` is `)` and `;`."""
    for word in words:
        if word and set(word) <= set("();"):
            yield from re.findall(";;|.", word)
        else:
            yield word
