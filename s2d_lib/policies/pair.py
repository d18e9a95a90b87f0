"""Do a student and a teacher speak the same tokens? Asked before any training."""

from s2d_lib.errors import StudyError
from s2d_lib.policies.policy import Policy


def check_pair(student: Policy, teacher: Policy) -> None:
    """Student and teacher agree on vocabulary, EOS, pad, chat template and head size.

    A dense bridge compares next-token distributions entry by entry, so token i must mean the same in both; a teacher
    that ends its turn with another token than the student makes the student's length explode.

    Raises:
        StudyError: Saying in one sentence what differs first.
    """
    s, t = student.tokenizer, teacher.tokenizer
    difference = None
    if s.get_vocab() != t.get_vocab():
        only_student = sorted(set(s.get_vocab()) - set(t.get_vocab()))[:3]
        only_teacher = sorted(set(t.get_vocab()) - set(s.get_vocab()))[:3]
        difference = (
            f"their vocabularies ({len(s)} and {len(t)} tokens; only the student's: {only_student}, only the teacher's: "
            f"{only_teacher}): take a teacher of the student's family"
        )
    elif s.eos_token != t.eos_token:
        difference = f"the EOS token ({s.eos_token!r} and {t.eos_token!r}): set `eos_token` of one role in the profile"
    elif s.pad_token != t.pad_token:
        difference = f"the pad token ({s.pad_token!r} and {t.pad_token!r}): set `pad_token` of one role in the profile"
    elif student.chat != teacher.chat:
        difference = (
            f"chat prompts (chat: {student.chat} and {teacher.chat}): set `chat` the same for both roles in the profile"
        )
    elif student.chat and s.chat_template != t.chat_template:
        difference = "their chat templates: set `chat_template` of one role to the other's in the profile"
    elif student.model.config.vocab_size != teacher.model.config.vocab_size:
        difference = (
            f"the size of their output heads ({student.model.config.vocab_size} and "
            f"{teacher.model.config.vocab_size} rows): resize one model's embeddings"
        )
    if difference:
        raise StudyError(f"student and teacher can't be bridged, they differ in {difference}.")
