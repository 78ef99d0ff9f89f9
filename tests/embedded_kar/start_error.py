"""Why kar cannot start."""


class StartError(Exception):
    """kar says the text of this behind [FATAL] and ends with status 1."""
