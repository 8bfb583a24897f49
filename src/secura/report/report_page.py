"""A comparison of many runs as one page: a single file that asks nothing of any network.

The page and the figure files are made from the same exhibits, see `secura.report.comparison`.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secura.experiments.comparison.runs.record import RunRecord
from secura.report.comparison.cost import cost
from secura.report.comparison.exhibit import Absent, Exhibit, HeatMap, Panel, Table, TableCell
from secura.report.comparison.gradient_norms import gradient_norms
from secura.report.comparison.grids import Comparison
from secura.report.comparison.image_files import write_images
from secura.report.comparison.learning_rates import learning_rates
from secura.report.comparison.marker_paths import legend_mark
from secura.report.comparison.pareto import pareto, published
from secura.report.comparison.performance import failure_text, performance
from secura.report.comparison.plotly_panels import plotly_figure
from secura.report.comparison.retention_curves import retention_curves
from secura.report.comparison.runs import GridRuns, rate_text
from secura.report.comparison.score_matrices import score_matrices
from secura.report.comparison.spectra import spectra
from secura.report.comparison.style import Style, styles_of
from secura.report.page_parts import for_script, own_file, page_templates, plotly_script
from secura.report.wording import listed, plural
from secura.whole_files import write_text

PAGE_FILE = "report.html"
FIGURES_FOLDER = "figures"

_MOST_LINKS = 12
"""Runs linked from one cell of a table; the list of runs has all."""
_LONG_LIST = 60
"""Runs that are listed when printed; of more, paper would hold little else."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """What a report shows of one grid."""

    name: str
    """Name of the grid."""
    slug: str
    """The name as part of addresses and file names."""
    grid: GridRuns
    """Its runs."""
    exhibits: Sequence[Exhibit]
    """What there is to show."""
    absent: Sequence[Absent]
    """What there is nothing of."""


def sections_of(comparison: Comparison) -> list[Section]:
    """The sections of a report: one for each grid, then PEFT's published points where there are any."""
    styles = styles_of(sorted({label for grid in comparison.grids for label in grid.labels}, key=str.casefold))
    slugs: set[str] = set()

    def slug(name: str) -> str:
        plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "grid"
        while plain in slugs:
            plain += "-x"
        slugs.add(plain)
        return plain

    made = []
    for grid in comparison.grids:
        shown = _exhibits(grid, styles)
        made.append(
            Section(
                name=grid.name,
                slug=slug(grid.name),
                grid=grid,
                exhibits=[each for each in shown if isinstance(each, Exhibit)],
                absent=[each for each in shown if isinstance(each, Absent)],
            )
        )
    beside = published(comparison.records, styles)
    if beside is not None:
        foreign = [record for record in comparison.records if record.source == "peft"]
        grid = GridRuns(name="PEFT's published results", records=foreign)
        costs = cost(grid)
        exhibits = [beside, *([costs] if isinstance(costs, Exhibit) else [])]
        made.append(Section(name=grid.name, slug=slug("peft published"), grid=grid, exhibits=exhibits, absent=[]))
    return made


def _exhibits(grid: GridRuns, styles: Mapping[str, Style]) -> list[Exhibit | Absent]:
    return [
        pareto(grid, styles),
        learning_rates(grid, styles),
        *([] if _said_elsewhere(grid) else [performance(grid)]),
        retention_curves(grid, styles),
        score_matrices(grid),
        gradient_norms(grid, styles),
        spectra(grid, styles),
        cost(grid),
    ]


def _said_elsewhere(grid: GridRuns) -> bool:
    """Whether tables by task would only repeat those by learning rate, or those of sequences."""
    by_rate = grid.swept == set(grid.labels) and all(len(grid.tasks(model)) == 1 for model in grid.models)
    return by_rate or (bool(grid.done) and all(record.sequence for record in grid.done))


def write_report(comparison: Comparison, page: Path, figures: Path) -> list[Path]:
    """Write the page and the figure files; returns what was written, the page first."""
    sections = sections_of(comparison)
    images: dict[tuple[str, str], list[Path]] = {}
    for section in sections:
        for exhibit in section.exhibits:
            images[section.slug, exhibit.key] = write_images(exhibit, figures / f"{section.slug}-{exhibit.key}")
    write_text(page, report_page(comparison, sections, images, page.parent))
    return [page, *(path for written in images.values() for path in written)]


def report_page(
    comparison: Comparison,
    sections: Sequence[Section],
    images: Mapping[tuple[str, str], Sequence[Path]],
    folder: Path,
) -> str:
    """The whole page as HTML.

    Args:
        comparison: what was read.
        sections: what is shown of it.
        images: figure files of each exhibit, by section and key.
        folder: where the page will lie, which its links are relative to.
    """

    def link(path: Path) -> str:
        # Percent signs and spaces are for the template's urlencode; here only where the file lies.
        return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()

    runs = {record.name: record for record in comparison.records}
    files = {name: link(path) for name, path in comparison.files.items()}
    figures: dict[str, dict[str, Any]] = {}
    shown = [_section(section, images, files, runs, link, figures) for section in sections]
    templates = page_templates()
    return templates.get_template("report.html.jinja").render(
        title=f"Comparison {comparison.name}",
        headline=_headline(comparison),
        sections=shown,
        notes=comparison.notes,
        facts=_facts(comparison.records),
        style=own_file(templates, "sheet.css") + own_file(templates, "report.css"),
        program=own_file(templates, "figures.js") + own_file(templates, "report.js"),
        plotly=plotly_script(),
        data=for_script({"figures": figures}),
    )


def _headline(comparison: Comparison) -> str:
    own = [record for grid in comparison.grids for record in grid.records]
    grids = len(comparison.grids)
    if not own:
        return f"{len(comparison.records)} published results, and no run of your own"
    labels = len({record.label for record in own})
    runs = f"{len(own):,} {plural('run', len(own))} in {grids} {plural('grid', grids)}"
    return f"{labels} {plural('method', labels)} compared over {runs}"


def _counts(grid: GridRuns) -> str:
    parts = [f"{len(grid.done):,} done"]
    if grid.failed:
        parts.append(f"{len(grid.failed):,} failed")
    if grid.missing:
        parts.append(f"{len(grid.missing):,} missing")
    runs = len(grid.records) + len(grid.missing)
    tasks = {each.task for each in (*grid.records, *grid.missing)}
    about = [
        f"{len(grid.labels)} {plural('label', len(grid.labels))}",
        listed(grid.models),
        listed(sorted(tasks)) if len(tasks) < 4 else f"{len(tasks)} tasks",
        f"{plural('seed', len(grid.seeds))} {listed([str(seed) for seed in grid.seeds])}",
    ]
    return f"{runs:,} {plural('run', runs)}, {', '.join(parts)}: {'; '.join(about)}."


def _section(
    section: Section,
    images: Mapping[tuple[str, str], Sequence[Path]],
    files: Mapping[str, str],
    runs: Mapping[str, RunRecord],
    link: Callable[[Path], str],
    figures: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    def exhibit_of(exhibit: Exhibit) -> dict[str, Any]:
        plots = []
        for number, panel in enumerate(exhibit.panels):
            place = f"{section.slug}-{exhibit.key}-{number}"
            figures[place] = plotly_figure(panel)
            plots.append({"id": place, "title": panel.title, "alt": _alt(panel)})
        return {
            "id": f"{section.slug}-{exhibit.key}",
            "title": exhibit.title,
            "sentence": exhibit.sentence,
            "note": exhibit.note,
            "plots": plots,
            "small": bool(exhibit.panels) and isinstance(exhibit.panels[0], HeatMap),
            "legend": [{"label": label, **legend_mark(style)} for label, style in exhibit.legend if plots],
            "tables": [_table(table, files, runs, f"{section.slug}-runs") for table in exhibit.tables],
            "images": [
                {"kind": path.suffix[1:].upper(), "href": link(path)}
                for path in images.get((section.slug, exhibit.key), ())
            ],
        }

    return {
        "name": section.name,
        "slug": section.slug,
        "counts": _counts(section.grid),
        "exhibits": [exhibit_of(each) for each in section.exhibits],
        "absent": section.absent,
        "missing": _missing(section.grid),
        "failures": _failures(section.grid),
        "runs": [_run(record, files) for record in section.grid.records],
        "long": len(section.grid.records) > _LONG_LIST,
    }


def _alt(panel: Panel) -> str:
    if isinstance(panel, HeatMap):
        return f"Heat map of {panel.title}: right answers by {panel.y} and {panel.x}; numbers are in the table below."
    names = list(dict.fromkeys(series.label for series in panel.series))
    shown = ", ".join(names if len(names) <= 8 else [*names[:8], f"{len(names) - 8} more"])
    what = f"{panel.y.title} against {panel.x.title}" if panel.y.title else panel.x.title
    return (
        f"Plot of {what}{f', {panel.title},' if panel.title else ''} for {shown}; the numbers are in the table below."
    )


def _table(table: Table, files: Mapping[str, str], runs: Mapping[str, RunRecord], all_runs: str) -> dict[str, Any]:
    def cell_of(cell: TableCell) -> dict[str, Any]:
        known = [name for name in cell.runs if name in runs]
        seeds = [runs[name].seed for name in known]
        by_seed = len(set(seeds)) == len(seeds)
        links = [
            {"href": files[name], "text": str(seed if by_seed else number), "name": name}
            for number, (name, seed) in enumerate(zip(known, seeds, strict=True), start=1)
            if name in files and number <= _MOST_LINKS
        ]
        return {
            "text": cell.text,
            "state": cell.state,
            "detail": cell.detail,
            "links": links,
            "links_are": "seed" if by_seed else "run",
            "more": len(known) - _MOST_LINKS if len(known) > _MOST_LINKS else 0,
            "all": all_runs,
        }

    return {
        "caption": table.caption,
        "folded": table.folded,
        "head": table.head,
        "rows": [[cell_of(cell) for cell in row] for row in table.rows],
    }


def _run(record: RunRecord, files: Mapping[str, str]) -> dict[str, Any]:
    return {
        "name": record.name,
        "label": record.label,
        "model": record.model,
        "task": record.task,
        "seed": record.seed,
        "rate": "" if record.learning_rate is None else rate_text(record.learning_rate),
        "status": "done" if record.status == "success" else record.status,
        "error": "" if record.status == "success" else failure_text([record]),
        "seconds": "" if record.total_seconds is None else f"{record.total_seconds:,.0f}",
        "href": files.get(record.name, ""),
    }


def _missing(grid: GridRuns) -> list[str]:
    """Runs that were planned and are not there, by label and task."""
    places: dict[tuple[str, str], list[int]] = {}
    for each in grid.missing:
        places.setdefault((each.label, each.task), []).append(each.seed)
    return [
        f"{label} on {task}, {plural('seed', len(seeds))} {listed([str(seed) for seed in sorted(set(seeds))])}"
        for (label, task), seeds in places.items()
    ]


def _failures(grid: GridRuns) -> list[str]:
    """Failed runs, those with the same reason together."""
    reasons: dict[tuple[str, str], int] = {}
    for record in grid.failed:
        key = (record.label, failure_text([record]))
        reasons[key] = reasons.get(key, 0) + 1
    return [f"{label}, {count} {plural('run', count)}: {reason}" for (label, reason), count in reasons.items()]


def _facts(records: Sequence[RunRecord]) -> list[tuple[str, str]]:
    """Versions, commits and hardware of our runs, each once."""
    found: dict[str, dict[str, None]] = {}
    for record in records:
        if record.source == "peft":
            continue
        for part in ("versions", "hardware"):
            for key, value in dict(record.provenance.get(part) or {}).items():
                if value is not None:
                    found.setdefault(key, {})[str(value)] = None
        if commit := record.provenance.get("commit"):
            found.setdefault("commit", {})[str(commit)[:12]] = None
    return [(name, listed(list(values))) for name, values in found.items()]
