"""Do a student and a teacher speak the same tokens, or at least the same words? Asked before any training."""

from collections.abc import Iterable, Sequence

from s2d_lib.errors import StudyError
from s2d_lib.policies.policy import Policy
from s2d_lib.problems.base import Problem


def share_vocabulary(student: Policy, teacher: Policy) -> bool:
    """Whether a token id means the same in both."""
    return student.tokenizer.get_vocab() == teacher.tokenizer.get_vocab()


def check_pair(student: Policy, teacher: Policy) -> None:
    """Student and teacher agree on vocabulary, EOS, pad, chat template and head size.

    A dense bridge compares next-token distributions entry by entry, so token i must mean the same in both; a teacher
    that ends its turn with another token than the student makes the student's length explode.

    Raises:
        StudyError: Saying in one sentence what differs first.
    """
    s, t = student.tokenizer, teacher.tokenizer
    difference = None
    if not share_vocabulary(student, teacher):
        only_student = sorted(set(s.get_vocab()) - set(t.get_vocab()))[:3]
        only_teacher = sorted(set(t.get_vocab()) - set(s.get_vocab()))[:3]
        difference = (
            f"their vocabularies ({len(s)} and {len(t)} tokens; only the student's: {only_student}, only the teacher's: "
            f"{only_teacher}): take a teacher of the student's family, or go by text, with stage "
            "teacher_sample_sft, or opd with estimator gold and beta 0.5"
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


def check_words(student: Policy, teacher: Policy, problems: Sequence[Problem], stored: bool) -> None:
    """A student and a teacher of two vocabularies can write what they have to, as far as it is known before one is sampled: both
    the prompts, the student the answers, and the teacher whatever the student says that it has to judge.

    Args:
        student: Who learns.
        teacher: From whom.
        problems: About what.
        stored: Whether it learns the teacher's stored answers; else the teacher judges what it says.

    Raises:
        StudyError: Naming the first word that one of them can't.
    """
    prompts = [problem.prompt for problem in problems]
    said = [] if stored else student.decode([[token] for token in range(len(student.tokenizer))])
    needs = {"teacher": (teacher, said), "student": (student, [problem.answer for problem in problems])}
    for who, (policy, texts) in needs.items():
        if word := unwritable(policy, [*prompts, *texts]):
            raise StudyError(
                f"student and teacher can't be aligned: the {who}'s tokenizer has no tokens for {word!r}, which stands in the "
                f"problems or is what the student may say; take a {who} that can write it."
            )


def unwritable(policy: Policy, texts: Iterable[str]) -> str | None:
    """The first word of the texts that the policy's tokenizer has no tokens for but the one for unknown words."""
    words = list(dict.fromkeys(word for text in texts for word in text.split()))
    unknown = policy.tokenizer.unk_token_id
    if unknown is None or not words:
        return None
    read = policy.tokenizer(words, add_special_tokens=False)["input_ids"]
    return next((word for word, ids in zip(words, read, strict=True) if unknown in ids), None)
