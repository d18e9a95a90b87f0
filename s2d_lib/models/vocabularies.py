"""Do a student and a teacher speak the same tokens, or at least the same words? Asked before any training."""

from collections.abc import Iterable, Sequence

from s2d_lib.errors import StudyError
from s2d_lib.models.policy import Policy
from s2d_lib.problems.base import Problem

OTHER_TEACHER = (
    "take a teacher of the student's family, or go by text, with stage teacher_sample_sft, or opd with estimator gold and "
    "beta 0.5"
)


def share_vocabulary(student: Policy, teacher: Policy) -> bool:
    """Whether a token id means the same in both."""
    return student.tokenizer.get_vocab() == teacher.tokenizer.get_vocab()


def check_pair(student: Policy, teacher: Policy) -> None:
    """Student and teacher agree on vocabulary, EOS, pad, chat template and head size; else a StudyError says what differs first.
    A dense bridge compares next-token distributions entry by entry, so token i must mean the same in both; a teacher that ends
    its turn with another token than the student makes the student's length explode."""
    s, t = student.tokenizer, teacher.tokenizer
    rows, others = student.model.config.vocab_size, teacher.model.config.vocab_size
    one, both = "of one role in the profile", "the same for both roles in the profile"
    found = [
        (share_vocabulary(student, teacher), f"their vocabularies ({len(s)} and {len(t)} tokens): {OTHER_TEACHER}"),
        (s.eos_token == t.eos_token, f"the EOS token ({s.eos_token!r} and {t.eos_token!r}): set `eos_token` {one}"),
        (s.pad_token == t.pad_token, f"the pad token ({s.pad_token!r} and {t.pad_token!r}): set `pad_token` {one}"),
        (student.chat == teacher.chat, f"chat prompts ({student.chat} and {teacher.chat}): set `chat` {both}"),
        (not student.chat or s.chat_template == t.chat_template, f"their chat templates: set `chat_template` {both}"),
        (rows == others, f"the size of their output heads ({rows} and {others} rows): resize one model's embeddings"),
    ]
    for agree, difference in found:
        if not agree:
            raise StudyError(f"student and teacher can't be bridged, they differ in {difference}.")


def check_words(student: Policy, teacher: Policy, problems: Sequence[Problem], stored: bool) -> None:
    """A student and a teacher of two vocabularies can write what they have to, as far as it is known before one is sampled: both
    the prompts, the student the answers, and the teacher whatever the student says, unless that learns its `stored` answers.
    Else a StudyError names the first word."""
    prompts = [problem.prompt for problem in problems]
    said = [] if stored else student.decode([[token] for token in range(len(student.tokenizer))])
    needs = {"teacher": (teacher, said), "student": (student, [problem.answer for problem in problems])}
    for who, (policy, texts) in needs.items():
        if word := unwritable(policy, [*prompts, *texts]):
            raise StudyError(
                f"student and teacher can't be aligned: the {who}'s tokenizer has no tokens for {word!r}, which stands in the "
                f"problems or is what the student may say; take a {who} that can write it."
            )


def check_spelling(policy: Policy, problems: Iterable[Problem], who: str) -> None:
    """A model's tokenizer can write the prompts and the answers of problems; else a StudyError names the first such word, and
    whose the model is. To a tokenizer of words an unknown word is no error, all of them are the same token, and training would
    go on without a sign."""
    if word := unwritable(policy, [text for problem in problems for text in (problem.prompt, problem.answer)]):
        raise StudyError(
            f"the {who}'s tokenizer has no tokens for {word!r}, which stands in the problems: take a model that can write it, or "
            "other problems."
        )


def unwritable(policy: Policy, texts: Iterable[str]) -> str | None:
    """The first word of the texts that the policy's tokenizer has no tokens for but the one for unknown words."""
    words = list(dict.fromkeys(word for text in texts for word in text.split()))
    unknown = policy.tokenizer.unk_token_id
    if unknown is None or not words:
        return None
    read = policy.tokenizer(words, add_special_tokens=False)["input_ids"]
    return next((word for word, ids in zip(words, read, strict=True) if unknown in ids), None)
