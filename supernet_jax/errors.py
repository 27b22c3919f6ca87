"""The one exception that stands for a mistake of the user, not of the program."""


class UserError(Exception):
    """Something the user can mend: bad input, a missing file, an impossible budget.

    The message says what was seen, what is allowed and what to do. The command line prints it in
    one line and exits with status 2; nobody else catches it.
    """
