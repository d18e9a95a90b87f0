r"""Which part of a completion, of any length, counts as its answer; None where it gives none in the form that is asked for."""

import json
import re
from collections import Counter
from itertools import islice

from s2d_lib.grading.compare import FILLER, MAX_ANSWER_CHARS, only_letter, spelled, unmarked

_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])")
_OPENING = re.compile(r"\s{0,20}\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # escaped braces do not count
_UNBRACED = re.compile(r"\s{0,20}((?:\\[A-Za-z]+(?:\{[^{}]*\})*|[^\s$\\])+)")  # TeX also allows \boxed 5
_LINE = re.compile(r"\banswer[ \t]{0,8}[*_]{0,3}[ \t]{0,8}(?:is[ \t]{0,8})?[:\uff1a]", re.IGNORECASE)
_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
# A number, perhaps with what it counts, before a remark on it: 7 (since n = 3), 12 apples at 5 each.
_REMARK = re.compile(
    r"((?=[^A-Za-z]*\d)[^A-Za-z(]{0,100}?(?: [A-Za-z]+){0,2}?)[ ,;(]+(?:since|because|as|at(?! least| most)|for|where|when|each|"
    r"which|altogether|approximately|in (?:all|total))(?![A-Za-z]).*"
)
_FORMULA = re.compile(r"(?<!\\)\$+([^$]+?)(?<!\\)\$+|\\\((.+?)\\\)|\\\[(.+?)\\\]")
_ACTION = re.compile(r"\bAction:[ \t]*([\w.\-/]{1,200})")
_INPUT = re.compile(r"\s{0,20}Action Input:\s{0,20}")
_MAX_CALLS = 50  # more are never right; bounds the work on hostile text
_DECODER = json.JSONDecoder(parse_float=lambda text: int(float(text)) if float(text).is_integer() else float(text))


def extract_exact(completion: str) -> str | None:
    """The tokens after the last ``#`` token of a micro completion, joined by one space."""
    tokens = completion.split()
    return " ".join(tokens[len(tokens) - tokens[::-1].index("#") :]) or None if "#" in tokens else None


def extract_answer(completion: str) -> str | None:
    r"""The last ``\boxed{...}``, or without one the last ``Answer:`` line.

    A last box that is empty or never closed is no answer: an earlier one does not count, or a model could name several.
    """
    if box := _last_box(completion):
        content = (_content(completion, box)[0] or "").strip()
        return content if content.strip("{} ") else None
    line = max(_LINE.finditer(completion), key=re.Match.start, default=None)
    if line is None:
        return None
    rest = completion[line.end() : line.end() + 4 * MAX_ANSWER_CHARS].lstrip(" \t*_\r\n")
    rest = rest.split("\n", 1)[0].strip(" \t\r*_`")
    formulas = _FORMULA.findall(rest)
    if len(formulas) == 1 and not re.search(r"\w", FILLER.sub("", _FORMULA.sub(" ", rest).lstrip())):
        rest = "".join(formulas[0]).strip()
    remark = _REMARK.match(rest)
    return (remark[1] if remark else rest) or None


def extract_tagged(completion: str) -> str | None:
    """The last ``<answer>...</answer>``, or without one what ``extract_answer`` finds."""
    found = start = None
    for tag in _TAG.finditer(completion):  # and no .*? that would look for the end from every opened tag
        if tag[1] and start is not None:
            found, start = completion[start : tag.start()], None
        elif not tag[1] and start is None:
            start = tag.end()
    return extract_answer(completion) if found is None else found.strip() or None


def extract_short(completion: str) -> str | None:
    """What ``extract_tagged`` finds, or a completion of a single line that names no other place for its answer: where the
    prompt ends in ``Answer:``, the answer is all there is."""
    line = completion.strip()
    alone = len(line) <= MAX_ANSWER_CHARS and len(line.splitlines()) == 1
    elsewhere = "<answer" in line.lower() or _last_box(line) or _LINE.search(line)
    return line if alone and not elsewhere else extract_tagged(completion)


def extract_choice(completion: str) -> str | None:
    """The only letter of a choice that the answer names, alone or before the choice's text."""
    text = extract_tagged(completion) or ""
    letter = only_letter(unmarked(spelled(text[:MAX_ANSWER_CHARS])))
    return letter and letter.upper()


def extract_calls(completion: str) -> str | None:
    """The calls of tools with their inputs, where all of these are JSON."""
    made = _calls(completion)
    return "; ".join(map(" ".join, made)) if made and all(inputs for _, inputs in made) else None


def same_calls(completion: str, answer: str) -> bool:
    """Whether a completion makes the gold calls, a JSON list of objects with `Action` and `Action_Input`.

    A call is a line ``Action: name`` followed by ``Action Input:`` and a JSON object, as in ToolAlpaca. They must be the gold
    ones as a multiset of names with their inputs; of inputs no key may be missing or added, and 1 is 1.0 but neither true nor
    "1". SDPO's scorer merges the inputs of all calls; here two calls may not swap theirs.
    """
    try:
        gold = [(call["Action"], call.get("Action_Input", {})) for call in _DECODER.decode(answer)]
        decoded = [(name, _DECODER.decode(said or "{}") if isinstance(said, str) else said) for name, said in gold]
        wanted = Counter((name, json.dumps(inputs, sort_keys=True)) for name, inputs in decoded)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return False
    return bool(wanted) and Counter(_calls(completion)) == wanted


def _calls(completion: str) -> list[tuple[str, str | None]]:
    """The calls in their order: names with their inputs as sorted JSON, None where those are none."""
    found = []
    for action in islice(_ACTION.finditer(completion), _MAX_CALLS):
        try:
            start = _INPUT.match(completion, action.end())
            inputs = json.dumps(_DECODER.raw_decode(completion, start.end())[0], sort_keys=True) if start else None
        except (ValueError, RecursionError):
            inputs = None
        found.append((action[1], inputs))
    return found


def _last_box(text: str) -> re.Match | None:
    """The last box; of nested boxes the outer one. Sought from the end: a million boxes cost no more than one."""
    at = len(text)
    while (at := max(text.rfind("\\boxed", 0, at), text.rfind("\\fbox", 0, at))) >= 0:
        if last := _BOX.match(text, at):
            around = _BOX.finditer(text, max(0, at - MAX_ANSWER_CHARS), at)
            return next((outer for outer in around if _content(text, outer)[1] > last.end()), last)
    return None


def _content(text: str, box: re.Match) -> tuple[str | None, int]:
    """Content and end of a box; None where it is never closed."""
    opening = _OPENING.match(text, box.end())
    if not opening:
        bare = _UNBRACED.match(text, box.end(), box.end() + 2 * MAX_ANSWER_CHARS)
        return (bare[1].rstrip(".,;:)"), bare.end()) if bare else (None, -1)
    depth = 1
    for brace in _BRACE.finditer(text, opening.end(), opening.end() + 20 * MAX_ANSWER_CHARS):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return text[opening.end() : brace.start()], brace.end()
    return None, -1
