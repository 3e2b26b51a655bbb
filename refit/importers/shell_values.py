"""What a script's words come to: variables put in, sums done, conditions answered."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

Value = str | list[str]

_BRACES = r"\{[^{}]*\}"
for _ in range(3):  # defaults within defaults
    _BRACES = rf"\{{(?:[^{{}}]|{_BRACES})*\}}"
VARIABLE = re.compile(
    rf"\$\{{(\w+|[@*])(\[[@*]\])?(?::?([-=+])((?:[^{{}}]|{_BRACES})*))?\}}|\$(\w+|[@*])"
)
"""Groups: a name, all of an array, what of a default, the default; or a bare name."""


@dataclass
class Values:
    """Variables, and what only a shell can say: that by the variable that stands in its place."""

    variables: dict[str, Value]
    computed: Mapping[str, str] = field(default_factory=dict)

    def as_written(self, word: str) -> str:
        """A word as it is in the script."""
        return VARIABLE.sub(lambda found: self.computed.get(found[1] or "", found[0]), word)


def is_computed(text: str) -> bool:
    """Whether there is something in it that only a shell can say, or the script's own arguments."""
    return "$" in text or "`" in text


def as_list(value: Value) -> list[str]:
    """An array's words, or the only one."""
    return [value] if isinstance(value, str) else value


def expanded(words: Sequence[str], values: Values) -> list[str]:
    """Words with variables put in: an array, or a text of flags, becomes several words."""
    found: list[str] = []
    for word in words:
        whole = VARIABLE.fullmatch(word)
        value = values.variables.get(whole[1] or whole[5]) if whole else None
        if isinstance(value, list):
            found += value
        elif isinstance(value, str) and value.lstrip().startswith("-") and " " in value.strip():
            found += value.split()
        elif whole and (whole[1] or whole[5]) in ("@", "*"):
            continue  # the script's own arguments, which are given behind it
        else:
            found.append(text_of(word, values))
    return found


def text_of(word: str, values: Values, unset: str | None = None) -> str:
    """A word with variables put in; `unset` in place of one without a value, or as written."""

    def put_in(found: re.Match[str]) -> str:
        name = found[1] or found[5]
        if name in values.computed:
            return _computed(values.computed[name], values)
        value = values.variables.get(name)
        if found[3] == "+":
            return text_of(found[4], values, unset) if value else ""
        if value is None or value == "":
            if found[3] is not None:
                return text_of(found[4], values, unset)
            return found[0] if unset is None and value is None else unset or ""
        return " ".join(as_list(value))

    return VARIABLE.sub(put_in, word)


def _computed(text: str, values: Values) -> str:
    """A sum's result, where its numbers are known; else as written."""
    if not (text.startswith("$((") and text.endswith("))")):
        return text

    def put_in(found: re.Match[str]) -> str:
        value = values.variables.get(found[0])
        return value if isinstance(value, str) else found[0]

    said = re.sub(r"[A-Za-z_]\w*", put_in, text_of(text[3:-2], values)).strip()
    try:
        return str(_sum(ast.parse(said, mode="eval").body))
    except (SyntaxError, ValueError, ZeroDivisionError, KeyError):
        return text


_DONE: Mapping[type, Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.floordiv,  # as bash divides what is not negative
    ast.Mod: operator.mod,
}


def _sum(node: ast.expr) -> int:
    """Of whole numbers.

    Raises:
        ValueError, KeyError: there is something else in it.
    """
    if isinstance(node, ast.BinOp):
        return _DONE[type(node.op)](_sum(node.left), _sum(node.right))
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    raise ValueError("not a sum of whole numbers")


_COMPARED: Mapping[str, Callable[[int, int], bool]] = {
    "-gt": operator.gt, "-ge": operator.ge, "-lt": operator.lt, "-le": operator.le,
}  # fmt: skip


def holds(words: Sequence[str], values: Values) -> bool:
    """Whether `[ -n "$X" ]`, `-z`, `=`, `!=` or a comparison holds; of other conditions False."""
    outside = ("[", "[[", "]", "]]", "test", "{", "}")
    inner = [text_of(word, values, unset="") for word in words if word not in outside]
    if any(map(is_computed, inner)):
        return False
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
        case [left, sign, right] if sign in _COMPARED and left.isdecimal() and right.isdecimal():
            return _COMPARED[sign](int(left), int(right))
    return False
