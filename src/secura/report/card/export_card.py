"""The card of an export: what it is, how it is loaded, and how it was made."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from secura.errors import DataError
from secura.experiments.export import EXPORT_FILE, GGUF_FILE, GGUF_LORA_FILE, ExportResult
from secura.report.card.finished_run import read_run
from secura.report.card.model_card import CARD_FILE, card_text
from secura.whole_files import write_text

_LOADING = {
    "lora": """```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{base}"), ".")
```""",
    "merged": """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = AutoModelForCausalLM.from_pretrained("."), AutoTokenizer.from_pretrained(".")
```""",
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
    """Write README.md beside an export: the card of the finished run it comes from, or a short one."""
    record = json.loads((result.folder / EXPORT_FILE).read_text(encoding="utf-8"))
    path = result.folder / CARD_FILE
    write_text(path, _card_of_run(result, source) or _short_card(result, record))
    return path


def _card_of_run(result: ExportResult, source: str) -> str | None:
    """A run's card speaks of transformers and PEFT, so it fits a LoRA and a merged model alone."""
    if result.form not in ("lora", "merged") or not Path(source).is_dir():
        return None
    try:
        run = read_run(Path(source))
    except DataError:
        return None
    is_lora = result.form == "lora"
    return card_text(replace(run, saved=result.folder, is_adapter=is_lora, peft_type="LORA" if is_lora else ""))


def _short_card(result: ExportResult, record: dict[str, Any]) -> str:
    base = record["base"]
    on_hub = base if base and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", base) and not Path(base).exists() else None
    shown = on_hub or (Path(base).name if base else "itself")
    library = {"lora": "peft", "merged": "transformers"}.get(result.form, "gguf")
    front = ModelCardData(
        base_model=on_hub, library_name=library, pipeline_tag="text-generation", tags=["secura", result.form]
    ).to_yaml()
    how = [f"- stored as {record['dtype']}"]
    if record["method"]:
        how.append(f"- an adapter of {record['method']} on {shown}")
    if record["scale"] != 1:
        how.append(f"- what was learned is multiplied by {record['scale']:g}")
    if record["tasks"]:
        how.append(f"- of the tasks it learned, these are kept: {', '.join(record['tasks'])}")
    if "exact" in record:
        lost = max(layer["lost"] for layer in record["layers"])
        how.append("- exact" if record["exact"] else f"- up to {lost:.1%} of a layer's change is lost")
    text = (
        f"---\n{front}\n# license: yours to choose; it has to fit that of the base model and of the data\n---\n\n"
        f"# {result.folder.name}\n\nMade by `secura export --to {result.form}`.\n\n"
        f"## How to load it\n\n{_LOADING[result.form].format(base=shown)}\n\n## How it was made\n\n"
        + "\n".join(how)
        + "\n"
    )
    ModelCard(text)  # what the Hub's own reader cannot read must not be written
    return text
