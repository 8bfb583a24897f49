"""The templates of `report/page`, for pages and for cards."""

from jinja2 import Environment, PackageLoader, StrictUndefined


def templates(*, escaped: bool) -> Environment:
    """The templates; `escaped` is for HTML, where whatever comes from data must be."""
    return Environment(
        loader=PackageLoader("secura.report", "page"),
        autoescape=escaped,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
