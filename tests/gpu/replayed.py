"""Rollouts of one run given to another, so that both take their steps on the same text."""

import contextlib

import pytest
from trl import DistillationTrainer, GRPOTrainer

from s2d_lib.stages import stored_teacher


class Replayed:
    """Keeps what trainers and teachers sample and, on request, lets others have it instead of sampling."""

    def __init__(self):
        self.kept: list = []

    @contextlib.contextmanager
    def __call__(self, replay: bool):
        """While the block runs, all sample as ever and it is kept, or they are given what was kept, in order."""
        given = iter(list(self.kept))

        def kept(sampled):
            def generate(*args, **kwargs):
                if replay:
                    return next(given)
                self.kept.append(sampled(*args, **kwargs))
                return self.kept[-1]

            return generate

        as_ever = stored_teacher.sampler

        @contextlib.contextmanager
        def sampler(*args):
            with as_ever(*args) as sample:
                yield kept(sample)

        with pytest.MonkeyPatch.context() as patch:
            for trainer in (GRPOTrainer, DistillationTrainer):
                patch.setattr(trainer, "_generate_single_turn", kept(trainer._generate_single_turn))
            patch.setattr(stored_teacher, "sampler", sampler)
            yield
