"""The card of an export: what it is, how it is loaded, and how it was made."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from secura.errors import DataError
from secura.experiments.export import EXPORT_FILE, GGUF_FILE, GGUF_LORA_FILE, ExportResult
from secura.json_text import read_json
from secura.report.card.checked import check_card
from secura.report.card.finished_run import FinishedRun, read_run
from secura.report.card.loading import hub_name, loading_snippet
from secura.report.card.model_card import CARD_FILE, card_text
from secura.whole_files import write_text

_SERVING = {
    "gguf": f"""```console
$ llama-cli -m {GGUF_FILE}
```""",
    "gguf-lora": f"""```console
$ llama-cli -m BASE.gguf --lora {GGUF_LORA_FILE}
```

BASE.gguf is {{base}} as GGUF.""",
    "ollama": """```console
$ ollama create NAME -f Modelfile
$ ollama run NAME
```""",
}


def write_export_card(result: ExportResult, source: str) -> Path:
    """Write README.md beside an export: the card of the finished run whose result it is, or a short one."""
    record = read_json(result.folder / EXPORT_FILE)
    path = result.folder / CARD_FILE
    run = _run_of(source)
    is_the_result = record["scale"] == 1 and not record["tasks"] and record.get("exact", True)
    if run is not None and is_the_result and result.form in ("lora", "merged"):
        is_lora = result.form == "lora"
        text = card_text(replace(run, saved=result.folder, is_adapter=is_lora, peft_type="LORA" if is_lora else ""))
    else:
        certificate = run.certificate if run is not None and record["scale"] == 1 and not record["tasks"] else None
        text = _short_card(result, record, certificate)
    write_text(path, text)
    return path


def _run_of(source: str) -> FinishedRun | None:
    if not Path(source).is_dir():
        return None
    try:
        return read_run(Path(source))
    except DataError:
        return None


def _short_card(result: ExportResult, record: dict[str, Any], certificate: Mapping[str, Any] | None) -> str:
    base = record["base"]
    on_hub = hub_name(base) if base else None
    shown = on_hub or (Path(base).name if base else "itself")
    library = {"lora": "peft", "merged": "transformers"}.get(result.form, "gguf")
    front = ModelCardData(
        base_model=on_hub, library_name=library, pipeline_tag="text-generation", tags=["secura", result.form]
    ).to_yaml()
    how = [f"- stored as {record['dtype']}"]
    if record["method"]:
        how.append(f"- an adapter of {record['method']} on {shown}")
    if record["dequantized"]:
        how.append(f"- the base was quantized by {record['dequantized']['method']}, and its rounding stays")
    if record["scale"] != 1:
        how.append(f"- at {record['scale']:g} of what was learned")
    if record["tasks"]:
        how.append(f"- of the tasks it learned, these are kept: {', '.join(record['tasks'])}")
    if "exact" in record:
        lost = max(layer["lost"] for layer in record["layers"])
        how.append("- exact" if record["exact"] else f"- up to {lost:.1%} of a layer's change is lost")
    if result.form in _SERVING:
        loading = _SERVING[result.form].format(base=shown)
    else:
        loading = loading_snippet(result.folder, base=base if result.form == "lora" else None, is_own_method=False)
    parts = [
        f"---\n{front}\n# license: yours to choose; it has to fit that of the base model and of the data\n---",
        f"# {result.folder.name}",
        f"Made by `secura export --to {result.form}`.",
        "## How to load it",
        loading,
        "## How it was made",
        "\n".join(how),
    ]
    if certificate is not None:
        parts += [
            "## Certificate",
            f"**{certificate['sentence']}** {certificate['explanation']}",
            "It speaks of the model that this was made of; `secura verify-export` says how far the two are apart.",
        ]
    text = "\n\n".join(parts) + "\n"
    check_card(text)
    return text
