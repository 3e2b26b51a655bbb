"""A script's text -> words, and what they come to; nothing is run."""

from __future__ import annotations

import pytest

from refit.errors import UserError
from refit.importers.shell_values import (
    Value,
    Values,
    as_list,
    expanded,
    holds,
    is_computed,
    text_of,
)
from refit.importers.shell_words import PATTERN, parsed

SAID: dict[str, Value] = {
    "TP": "4",
    "PP": "2",
    "EMPTY": "",
    "LIST": ["--a", "1"],
    "FLAGS": " --b 2",
    "DASH": "-5",
    "NAME": "my model",
    "AGAIN": "$TP",
}
COMPUTED = {
    "c_1": "$((TP * PP))",
    "c_2": "$(nproc)",
    "c_3": "$(( ($TP + 1) / 2 % 3 - PP ))",
    "c_4": "$((TP ** 2))",
    "c_5": "$((TP / 0))",
    "c_6": "$((NONE + 1))",
    "c_7": "$((LIST + 1))",
    "c_8": "$((1.5 + 1))",
    "c_9": "$((TP",
}
VALUES = Values(SAID, COMPUTED)


@pytest.mark.parametrize(
    ("word", "unset", "text"),
    [
        ("$TP", None, "4"),
        ("${TP}x${PP}", None, "4x2"),
        ("${LIST[@]}", None, "--a 1"),
        ("$NONE", None, "$NONE"),
        ("$NONE", "", ""),
        ("$NONE", "-", "-"),
        ("$EMPTY", None, ""),
        ("${EMPTY}", "-", "-"),
        ("${NONE:-7}", None, "7"),
        ("${EMPTY:-7}", None, "7"),
        ("${EMPTY-7}", None, "7"),
        ("${NONE:=$TP}", None, "4"),
        ("${TP:-7}", None, "4"),
        ("${NONE:-}", None, ""),
        ("${NONE:-${ALSO:-${PP}}}", None, "2"),
        ("${TP:+yes}", None, "yes"),
        ("${TP:+$NONE}", "", ""),
        ("${NONE:+yes}", None, ""),
        ("${EMPTY+yes}", None, ""),
        ("${c_1}", None, "8"),
        ("${c_2}", None, "$(nproc)"),
        ("n${c_3}", None, "n0"),
        ("${c_4}", None, "$((TP ** 2))"),
        ("${c_5}", None, "$((TP / 0))"),
        ("${c_6}", None, "$((NONE + 1))"),
        ("${c_7}", None, "$((LIST + 1))"),
        ("${c_8}", None, "$((1.5 + 1))"),
        ("${c_9}", None, "$((TP"),
    ],
)
def test_what_a_word_comes_to(word: str, unset: str | None, text: str) -> None:
    assert text_of(word, VALUES, unset) == text


def test_words_of_arrays_and_of_texts_of_flags() -> None:
    words = ["run", "${LIST[@]}", "$FLAGS", "$@", "${*}", "$DASH", "x$FLAGS", "$NAME", "$NONE"]
    assert expanded(words, VALUES) == [
        "run", "--a", "1", "--b", "2", "-5", "x --b 2", "my model", "$NONE",
    ]  # fmt: skip
    assert as_list("a b") == ["a b"] and as_list(["a", "b"]) == ["a", "b"]
    assert VALUES.as_written("--n=${c_2} $TP") == "--n=$(nproc) $TP"
    assert [is_computed(text) for text in ("a`b", "$a", "a-b")] == [True, True, False]


@pytest.mark.parametrize(
    ("condition", "is_true"),
    [
        ("[ -n $TP ]", True),
        ("[ -n $EMPTY ]", False),
        ("[ -n ]", False),
        ("test -z", True),
        ("[[ -z $NONE ]]", True),
        ("[ -z $TP ]", False),
        ("[ $TP = 4 ]", True),
        ("[ $TP == 5 ]", False),
        ("[ $TP -eq 4 ]", True),
        ("[ $TP != 4 ]", False),
        ("[ $TP -ne 5 ]", True),
        ("[ $TP -gt 4 ]", False),
        ("[ $TP -ge 4 ]", True),
        ("[ $TP -lt 5 ]", True),
        ("[ $TP -lt 4 ]", False),
        ("[ $TP -le 4 ]", True),
        ("[ $TP -le 3 ]", False),
        ("[ $DASH -lt 5 ]", False),  # no decimal, of which nothing is said
        ("[ 5 -gt $DASH ]", False),
        ("[ ${c_2} = 4 ]", False),
        ("[ ${c_2} != 4 ]", False),
        ("[ -f file ]", False),
        ("[ a b c d ]", False),
    ],
)
def test_which_conditions_hold(condition: str, is_true: bool) -> None:
    assert holds(condition.split(), VALUES) is is_true


def statements(text: str) -> list[tuple[str, list[str]]]:
    return [(each.after, each.words) for each in parsed(text).statements]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a 'b c' \"d\"", [("", ["a", "b c", "d"])]),
        ("a; b & c | d", [("", ["a"]), ("", ["b"]), ("", ["c"]), ("", ["d"])]),
        ("a && b || c", [("", ["a"]), ("&&", ["b"]), ("||", ["c"])]),
        ("a \\\n  b\nc", [("", ["a", "b"]), ("", ["c"])]),
        ("a \\ # why\n b", [("", ["a", "b"])]),
        ("# it's a (\na", [("", ["a"])]),
        ("a > out 2>&1 b", [("", ["a", "b"])]),
        ("a 2> err < in b", [("", ["a", "b"])]),
        ("X=(a\n b ) c", [("", ["X=", "(", "a", "b", ")", "c"])]),
        ("(a; b); c", [("", ["(", "a", ";", "b", ")"]), ("", ["c"])]),
        ("f() { a; }", [("", ["f", "(", ")", "{", "a"]), ("", ["}"])]),
        ("a 'b\nc' d", [("", ["a", "b c", "d"])]),
        ("echo $# ${#X} a", [("", ["echo", "${number_of_words}", "${number_of_words}", "a"])]),
        (
            "case $1 in a|b) c;; (d) e;; esac; f",
            [
                ("", ["case", "$1", "in"]),
                ("", [PATTERN, "a", "b"]),
                ("", ["c"]),
                ("", [PATTERN, "d"]),
                ("", ["e"]),
                ("", ["esac"]),
                ("", ["f"]),
            ],
        ),
    ],
)
def test_statements_of_a_script(text: str, expected: list[tuple[str, list[str]]]) -> None:
    assert statements(text) == expected


def test_what_only_a_shell_can_say_has_a_name() -> None:
    shell = parsed("A=$(x $(y) z) B=$((1 + (2)))c D=`e f`")
    (statement,) = shell.statements
    assert statement.words == ["A=${computed_1}", "B=${computed_2}c", "D=${computed_3}"]
    assert shell.computed == {
        "computed_1": "$(x $(y) z)", "computed_2": "$((1 + (2)))", "computed_3": "`e f`",
    }  # fmt: skip
    assert parsed("A=$(x").computed == {"computed_1": "$(x"}


def test_documents_are_put_aside() -> None:
    shell = parsed("cat <<EOF > f\n a 'b\n$(c)\n  EOF\ncat <<-'X'\nd\nX\ne <<< f")
    assert shell.documents == [" a 'b\n$(c)", "d"]
    assert [each.words for each in shell.statements] == [["cat"], ["cat"], ["e"]]
    assert parsed("# cat <<EOF\na").documents == []


def test_a_quote_that_is_not_closed() -> None:
    with pytest.raises(UserError, match=r"^a quote is not closed: b 'c d$"):
        parsed("a\nb 'c\nd")
    with pytest.raises(UserError, match=rf"^a quote is not closed: '{'x' * 59}$"):
        parsed(f"'{'x' * 80}")
