"""docs/cards/: cards of generated problems and released base models, from params, code and records."""

import inspect
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from s2d_lib.problems.micro import WORLDS, world_of
from s2d_lib.report.tables import markdown
from s2d_lib.study import load_profile, profile_names
from s2d_lib.study.profile import Profile
from s2d_lib.study.resolve import RELEASED, released_record
from s2d_lib.study.strict import read_yaml

SPECIAL = {
    "rare": "all parts equally often",
    "withheld": "needs a withheld fact",
    "opened": "the solution's first word given",
}


def filled(template: str, **what: object) -> str:
    """A template of this folder with what it asks for; its filter `table` writes tables."""
    place = FileSystemLoader(Path(__file__).parent)
    there = Environment(loader=place, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    there.filters["table"] = markdown
    return there.get_template(f"{template}.j2").render(what)


def sets_table(profile: Profile) -> pd.DataFrame:
    """The problem sets of a profile of a micro family, a row each in the order in which they are made, with what always the most
    frequent answer scores; no two of their problems ask the same."""
    problems, world, taken, rows = profile.problems, world_of(profile.problems), set(), []
    sets = [("evaluation", *one) for one in problems.evaluations.items()]
    sets += [*(("label pool", *one) for one in problems.pools.items()), ("validation", "", problems.validation)]
    for use, name, one in (one for one in sets if one[2]):
        answers = Counter(problem.answer for problem in world.problems(name, one, taken))
        row = {"use": use, "set": name, "problems": one.count, world.parts: ", ".join(map(str, one.lengths))}
        row |= {"special": ", ".join(words for flag, words in SPECIAL.items() if getattr(one, flag)), "seed": one.seed}
        rows.append(row | {"always the same answer, %": f"{100 * max(answers.values()) / one.count:.1f}"})
    return pd.DataFrame(rows)


def problem_cards(root: Path) -> list[dict]:
    """What the card of every problem type says; profiles with the same problems share one."""
    profiles, shared, cards = {name: load_profile(name, root=root) for name in profile_names(root)}, {}, []
    for name in (name for name, profile in profiles.items() if profile.problems.source in WORLDS):
        shared.setdefault(profiles[name].problems.model_dump_json(), []).append(name)
    for names, profile in ((names, profiles[names[0]]) for names in shared.values()):
        world, first = world_of(profile.problems), next(iter(profile.problems.evaluations.values()))
        drawn = world.draw(np.random.default_rng(first.seed), first.lengths[-1], first.rare)
        card = {"names": names, "problems": profile.problems, "sets": sets_table(profile), "world": world}
        card |= {"says": inspect.getdoc(world), "prompt": world.prompt(*drawn), "solution": world.solution(*drawn)}
        cards.append(card)
    return cards


def model_cards(root: Path) -> list[dict]:
    """What the card of every released base model says: its record, its configuration, what makes it and what it plays."""
    made, plays, cards = {}, {}, []
    for name in profile_names(root):
        content, profile = read_yaml(root / "params" / f"{name}.yaml"), load_profile(name, root=root)
        made |= dict.fromkeys((content.get("pretraining") or {}).get("models", ()), name)
        roles = [(role, one.model) for role, one in profile.roles.items()]
        for dial, values in (profile.map.dials if profile.map else {}).items():
            turned = [(f"{dial} {value}", laid.get("roles", {})) for value, laid in values.items()]
            roles += [(f"{role} ({at})", one["model"]) for at, own in turned for role, one in own.items()]
        for role, model in roles:
            plays.setdefault(model, {}).setdefault(role.replace("_", " "), []).append(f"`{name}`")
    for folder in sorted(path.parent for path in RELEASED.glob("*/record.json")):
        name, profile = folder.name, load_profile(made[folder.name], root=root)
        card = {"name": name, "record": released_record(folder), "profile": made[name]}
        card |= {"config": json.loads((folder / "config.json").read_text()), "world": world_of(profile.problems)}
        card |= {"spec": profile.pretraining.pretrained(name), "source": profile.problems.source}
        cards.append(card | {"plays": plays.get(f"micro/{name}", {})})
    return cards


def write_cards(root: Path, folder: Path) -> list[Path]:
    """Write all cards into a folder, docs/cards/ of the project: a page for the problems, one for the models."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {folder / "problems.md": problem_cards(root), folder / "models.md": model_cards(root)}
    for page, cards in texts.items():
        page.write_text(filled(page.name, cards=cards), encoding="utf-8")
    return list(texts)
