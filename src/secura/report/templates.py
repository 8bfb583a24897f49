"""Templates of pages and cards: those of `report/page`, or those that a package beside it holds in `page`."""

from jinja2 import Environment, PackageLoader, StrictUndefined


def templates(*, escaped: bool, package: str = "secura.report") -> Environment:
    """The templates of a package; `escaped` is for HTML, where whatever comes from data must be."""
    return Environment(
        loader=PackageLoader(package, "page"),
        autoescape=escaped,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
