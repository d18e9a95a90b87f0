"""The one error users meet: a sentence that names what is wrong and the remedy."""


class StudyError(Exception):
    """Something the user can fix: a bad parameter, a missing parent run, a broken file.

    The message is one clear sentence naming the thing and the remedy. It is raised before any training starts.
    """
