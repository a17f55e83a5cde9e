"""Which part of a text is a whole statement: SQL up to its ``;``, or a line that begins with a dot."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

# As DuckDB reads them: quotes in quotes are doubled, $tag$ quotes end with the same tag, E'' knows backslashes, /* */ may be nested
_TOKEN = re.compile(
    r"""(?P<blank>\s+|--[^\n]*)
    |(?P<comment>/\*)
    |(?P<end>;)
    |(?P<quoted>(?<![\w$])[eE]'(?:[^'\\]|\\.|'')*+'
      |'(?:[^']|'')*+'
      |"(?:[^"]|"")*+"
      |(?<![\w$])\$(?P<tag>(?:[^\W\d]\w*)?)\$.*?\$(?P=tag)\$)
    |(?P<open>(?<![\w$])[eE]'|['"]|(?<![\w$])\$(?:[^\W\d]\w*)?\$)
    |(?P<word>[\w$]+|.)""",
    re.VERBOSE | re.DOTALL,
)
_COMMENT_ENDS = re.compile(r"/\*|\*/")


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    """(kind, where it ends): ``blank``, ``quoted``, ``word``, ``end`` of a statement; ``open``: a quote or comment that is not closed."""
    at = 0
    while match := _TOKEN.match(text, at):
        kind, at = match.lastgroup or "", match.end()
        if match["comment"]:
            kind, at = "blank", _after_comment(text, at)
        elif match["quoted"]:
            kind = "quoted"  # lastgroup may be its tag
        if at < 0 or match["open"]:
            yield "open", len(text)
            return
        yield kind, at


def _after_comment(text: str, at: int) -> int:
    """Where the comment that was opened before ``at`` ends; -1 when it does not."""
    depth = 1
    for match in _COMMENT_ENDS.finditer(text, at):
        depth += 1 if match[0] == "/*" else -1
        if depth == 0:
            return match.end()
    return -1


def is_open(text: str) -> bool:
    """Whether the text ends within a quote or a comment."""
    return any(kind == "open" for kind, _ in _tokens(text))


def _start(text: str) -> int:
    """Where the first word begins, after blanks, comments and semicolons; the text's length when there is none."""
    at = 0
    for kind, end in _tokens(text):
        if kind not in ("blank", "end"):
            return at
        at = end
    return at


def split(text: str) -> tuple[list[str], str]:
    """The whole statements of a text without their semicolons, and the rest, which goes on in the next line.

    A statement that begins with a dot is a command and ends with its line. What is empty is left out.
    """
    whole: list[str] = []
    while text := text[_start(text) :]:
        if text.startswith("."):
            line, _, text = text.partition("\n")
            whole.append(line.strip())
            continue
        end = next((at for kind, at in _tokens(text) if kind == "end"), None) if ";" in text else None
        if end is None:
            break
        whole.append(text[: end - 1].strip())
        text = text[end:]
    return whole, text


def read(lines: Iterable[str]) -> Iterator[str]:
    """The statements and commands of lines, each as soon as it is whole; at the end also one without ``;``."""
    pending = ""
    for line in lines:
        may_end = not pending or ";" in line or pending.startswith("/*")  # so that a long statement is not split anew at each line
        pending += line
        if may_end:
            whole, pending = split(pending)
            yield from whole
    if pending:
        yield pending.strip()
