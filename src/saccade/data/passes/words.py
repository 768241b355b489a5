"""Numbers of things, as people say them."""


def counted(number: int, thing: str) -> str:
    """Write how many there are: 1 episode, 2,000 episodes."""
    return f"{number:,} {thing}{'s' * (number != 1)}"
