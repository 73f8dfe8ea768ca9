"""The one error a user of the commands should ever see."""


class UserError(Exception):
    """Something the user can mend: the value, what was expected, and the remedy.

    The root scripts print it as one message without a traceback and exit with status 2.
    """

    def __init__(self, problem: str, *, expected: str = "", remedy: str = "") -> None:
        self.problem, self.expected, self.remedy = problem, expected, remedy
        lines = [problem]
        if expected:
            lines.append(f"  expected: {expected}")
        if remedy:
            lines.append(f"  remedy:   {remedy}")
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[object, ...]:
        """Survive pickling: worker processes send their errors to the parent."""
        return (_rebuild, (self.problem, self.expected, self.remedy))


def _rebuild(problem: str, expected: str, remedy: str) -> UserError:
    return UserError(problem, expected=expected, remedy=remedy)
