"""Calls of tools in a completion, and whether they are the right ones.

A call is a line ``Action: name`` followed by ``Action Input:`` and a JSON object, as in ToolAlpaca. The calls of a
completion must be the gold ones, as a multiset of names with their inputs; of inputs no key may be missing or added, and
1 is 1.0 but neither true nor "1".
That is stricter than SDPO's scorer in one case: that one merges the inputs of all calls, so that two calls may swap
theirs.
"""

import json
import re
from typing import Any

_ACTION = re.compile(r"\bAction:[ \t]*([\w.\-/]{1,200})")
_INPUT = re.compile(r"\s{0,20}Action Input:\s{0,20}")
_MAX_CALLS = 50  # more are never right; bounds the work on hostile text
_DECODER = json.JSONDecoder(parse_float=lambda text: int(float(text)) if float(text).is_integer() else float(text))

Call = tuple[str, str | None]


def calls(completion: str) -> list[Call]:
    """The calls of a completion in their order: names with their inputs as sorted JSON, None where those are none."""
    found: list[Call] = []
    for action in _ACTION.finditer(completion):
        if len(found) > _MAX_CALLS:
            break
        start = _INPUT.match(completion, action.end())
        found.append((action[1], _json_at(completion, start.end()) if start else None))
    return found


def gold_calls(answer: str) -> list[Call]:
    """The calls of a gold answer, as `calls` gives them: a JSON list of objects with `Action` and `Action_Input`, an
    object or its JSON text.

    Raises:
        ValueError: It is none.
    """
    listed = _DECODER.decode(answer)
    if not isinstance(listed, list) or not listed:
        raise ValueError("a gold answer must be a list of calls")
    return [_gold_call(call) for call in listed]


def same_calls(completion: str, answer: str) -> tuple[bool, str]:
    """Whether a completion makes the gold calls, and the reason."""
    try:
        wanted = gold_calls(answer)
    except (ValueError, RecursionError):
        return False, "the gold answer is no list of calls"
    made = calls(completion)
    if not made:
        return False, "no 'Action:' line"
    if sorted(name for name, _ in made) != sorted(name for name, _ in wanted):
        return False, "other tools are called"
    for call in made:
        if call not in wanted:
            return False, "other inputs are given"
        wanted.remove(call)
    return True, "equal"


def shown_calls(completion: str) -> str | None:
    """The calls of a completion as one line of text; None where it makes none, or one whose inputs are no JSON."""
    made = calls(completion)
    return (
        "; ".join(f"{name} {inputs}" for name, inputs in made) if made and all(inputs for _, inputs in made) else None
    )


def _json_at(text: str, start: int) -> str | None:
    try:
        return json.dumps(_DECODER.raw_decode(text, start)[0], sort_keys=True)
    except (ValueError, RecursionError):
        return None


def _gold_call(call: Any) -> Call:
    if not isinstance(call, dict) or not isinstance(call.get("Action"), str):
        raise ValueError("a gold call must be an object with an `Action`")
    inputs = call.get("Action_Input", {})
    inputs = _DECODER.decode(inputs or "{}") if isinstance(inputs, str) else inputs
    return call["Action"], json.dumps(inputs, sort_keys=True)
