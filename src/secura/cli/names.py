"""Names that a flag takes, by commas or one by one."""


def names_in(given: list[str] | None) -> tuple[str, ...]:
    """Every name, in the order given."""
    return tuple(name.strip() for each in given or () for name in each.split(",") if name.strip())
