"""Which part of a completion counts as its answer."""

import re

from s2d_lib.grading.normal import FILLER, only_letter, spelled, unmarked

# A longer answer is never a competition answer; the cap bounds every later step.
MAX_ANSWER_CHARS = 1_000

_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_UNBRACED = re.compile(r"\s{0,20}((?:\\[A-Za-z]+(?:\{[^{}]*\})*|[^\s$\\])+)")
_ANSWER_LINE = re.compile(r"\banswer[ \t]{0,8}[*_]{0,3}[ \t]{0,8}(?:is[ \t]{0,8})?[:\uff1a]", re.IGNORECASE)
# A number, perhaps with what it counts, before a remark on it: 7 (since n = 3), 12 apples at 5 each.
_REMARK = re.compile(
    r"((?=[^A-Za-z]*\d)[^A-Za-z(]{0,100}?(?: [A-Za-z]+){0,2}?)[ ,;(]+(?:since|because|as|at(?! least| most)|for|where|when|each|"
    r"which|altogether|approximately|in (?:all|total))(?![A-Za-z]).*"
)
_MATH_SEGMENT = re.compile(r"(?<!\\)\$+([^$]+?)(?<!\\)\$+|\\\((.+?)\\\)|\\\[(.+?)\\\]")


def _braced(text: str, start: int) -> int | None:
    """End (exclusive) of the group that opens at ``start``, or None; escaped braces do not count."""
    depth = 0
    for match in _BRACE.finditer(text, start, start + 20 * MAX_ANSWER_CHARS):
        if match[0] == "{":
            depth += 1
        elif match[0] == "}":
            depth -= 1
            if depth == 0:
                return match.end()
    return None


def _box_content(text: str, match: re.Match) -> tuple[str | None, int]:
    r"""Content and end of the box whose command is ``match``; None for a box that is never closed."""
    start = match.end()
    while start < len(text) and text[start] in " \t\n" and start < match.end() + 20:
        start += 1
    if start < len(text) and text[start] == "{":
        end = _braced(text, start)
        return (None, len(text)) if end is None else (text[start + 1 : end - 1], end)
    bare = _UNBRACED.match(text, match.end(), match.end() + 2 * MAX_ANSWER_CHARS)  # TeX also allows \boxed 5
    return (bare[1].rstrip(".,;:)"), bare.end()) if bare else ("", match.end())


def _last_box(text: str) -> re.Match | None:
    """The command of the last box; of nested boxes the outer one."""
    # Searching from the end keeps megabytes with a million boxes as cheap as one box.
    at = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    while at >= 0:
        last = _BOX.match(text, at)
        if last:
            break
        at = max(text.rfind("\\boxed", 0, at), text.rfind("\\fbox", 0, at))
    else:
        return None
    window = max(0, last.start() - MAX_ANSWER_CHARS)
    for outer in _BOX.finditer(text, window, last.start()):
        content, end = _box_content(text, outer)
        if content is not None and end > last.end():
            return outer
    return last


def extract_answer(completion: str) -> tuple[str | None, str]:
    r"""The answer a completion gives: its last ``\boxed{...}``, or else its last ``Answer:`` line.

    Args:
        completion: The completion's text, of any length.

    Returns:
        The answer's text and "" - or None and the reason why there is none. A last box that is empty or never closed
        is no answer: an earlier box does not count, or a model could name several.
    """
    box = _last_box(completion)
    if box:
        content, _ = _box_content(completion, box)
        if content is None:
            return None, "the last box is never closed"
        content = content.strip()
        return (content, "") if content.strip("{} ") else (None, "the last box is empty")
    line = None
    for line in _ANSWER_LINE.finditer(completion):  # noqa: B007 - the last match is wanted
        pass
    if line is None:
        return None, "no boxed answer and no 'Answer:' line"
    rest = completion[line.end() : line.end() + 4 * MAX_ANSWER_CHARS].lstrip(" \t*_\r\n")
    rest = rest.split("\n", 1)[0].strip(" \t\r*_`")
    segments = _MATH_SEGMENT.findall(rest)
    if len(segments) == 1 and not re.search(r"\w", FILLER.sub("", _MATH_SEGMENT.sub(" ", rest).lstrip())):
        rest = "".join(segments[0]).strip()
    remark = _REMARK.match(rest)
    rest = remark[1] if remark else rest
    return (rest, "") if rest else (None, "the last 'Answer:' line is empty")


_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)


def extract_tagged(completion: str) -> tuple[str | None, str]:
    """The last ``<answer>...</answer>`` of a completion, or where it has none what :func:`extract_answer` finds; or
    None and the reason."""
    found = None
    for found in _TAGGED.finditer(completion):  # noqa: B007 - the last match is wanted
        pass
    if found is None:
        answer, reason = extract_answer(completion)
        return answer, f"no <answer>, {reason}" if answer is None else ""
    text = found[1].strip()
    return (text, "") if text else (None, "the last <answer> is empty")


def extract_short(completion: str) -> tuple[str | None, str]:
    """What :func:`extract_tagged` finds, or a completion of a single line itself: where the prompt ends in ``Answer:``,
    the answer is all there is. Or None and the reason."""
    answer, reason = extract_tagged(completion)
    line = completion.strip()
    if answer is None and 0 < len(line) <= MAX_ANSWER_CHARS and len(line.splitlines()) == 1 and _unmarked(line):
        return line, ""
    return answer, reason


def _unmarked(line: str) -> bool:
    """Whether nothing in a line says that an answer was meant to stand elsewhere: no tag, no box, no answer line."""
    return not ("<answer" in line.lower() or _last_box(line) or _ANSWER_LINE.search(line))


def extract_choice(completion: str) -> tuple[str | None, str]:
    """The only letter of a choice that a completion's answer names, alone or before the choice's text; or None and the
    reason."""
    text, reason = extract_tagged(completion)
    if text is None:
        return None, reason
    letter = only_letter(unmarked(spelled(text[:MAX_ANSWER_CHARS])))
    return (letter.upper(), "") if letter else (None, "the answer names no single choice")


def extract_exact(completion: str) -> tuple[str | None, str]:
    """The tokens after the last ``#`` token of a micro completion, joined by one space; or None and the reason."""
    tokens = completion.split()
    for index in range(len(tokens) - 1, -1, -1):
        if tokens[index] == "#":
            rest = " ".join(tokens[index + 1 :])
            return (rest, "") if rest else (None, "nothing follows the last '#'")
    return None, "no '#' token"
