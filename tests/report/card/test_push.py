"""Pushing, to a Hub that is a small server in this process."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from exported_models import tuned
from tiny_models import tiny_tokenizer

from secura.cli.app import DONE, FAILED, USAGE, run


class Hub(ThreadingHTTPServer):
    """What was asked of it, and what it holds."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.asked: list[tuple[str, str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.refuses_with: int | None = None


class _Answers(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self._answer({}, 404)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        if self.server.refuses_with is not None:
            self._answer({"error": "you may not"}, self.server.refuses_with)
            return
        where = self.path.partition("?")[0]
        if where.endswith("/commit/main"):
            lines = [json.loads(line) for line in body.splitlines()]
            for line in lines:
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self._note(lines[0]["value"])
            address = f"http://{self.headers['Host']}/user/name"
            self._answer({"success": True, "commitOid": "0" * 40, "commitUrl": f"{address}/commit/{'0' * 40}"})
            return
        asked = json.loads(body)
        self._note(asked)
        if where.endswith("/preupload/main"):
            files = [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in asked["files"]]
            self._answer({"files": files})
        elif where == "/api/repos/create":
            self._answer({"url": f"http://{self.headers['Host']}/user/name", "id": "0"})
        elif where == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        else:
            self._answer({}, 404)

    def _note(self, content: Any) -> None:
        self.server.asked.append((self.path.partition("?")[0], self.headers.get("Authorization", ""), content))

    def _answer(self, content: Any, status: int = 200) -> None:
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:
        del format, args


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def export(tmp_path: Path) -> Path:
    tuned("llama").unload().save_pretrained(tmp_path / "base")  # type: ignore[operator]
    tiny_tokenizer(chat=True).save_pretrained(tmp_path / "base")
    tuned("llama", norm="none").save_pretrained(str(tmp_path / "adapter"))
    assert run(["export", str(tmp_path / "adapter"), "--to", "lora", "--base", str(tmp_path / "base")]) == DONE
    return tmp_path / "adapter-lora"


FILES = {
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "chat_template.jinja",
    "export.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


def test_a_dry_run_lists_what_would_be_sent_and_contacts_nobody(
    export: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    (export / ".lock").write_text("")
    (export / "rows.jsonl").write_text("{}")
    (export / "checkpoint-1").mkdir()
    (export / "checkpoint-1" / "model.safetensors").write_text("")
    assert run(["push", str(export), "user/name", "--dry-run"]) == DONE
    shown = capsys.readouterr().out
    listed = {line.split()[-1] for line in shown.splitlines() if " bytes  " in line}
    assert listed == FILES
    assert "left here: .lock, checkpoint-1/model.safetensors, rows.jsonl" in shown
    assert "to user/name (private if it is new)" in shown
    assert "names no license" in shown
    assert "verify-export has not been run" in shown
    assert "dry run: nothing was sent" in shown
    assert hub.asked == []


def test_what_was_listed_is_sent_to_a_private_repository(
    export: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    (export / "rows.jsonl").write_text("{}")
    assert run(["push", str(export), "user/name", "--message", "the first"]) == DONE, capsys.readouterr().err
    assert set(hub.files) == FILES
    assert hub.files["adapter_model.safetensors"] == (export / "adapter_model.safetensors").read_bytes()
    created = next(content for path, _, content in hub.asked if path == "/api/repos/create")
    assert created["name"] == "name"
    assert created.get("private") or created.get("visibility") == "private"
    validated = next(content for path, _, content in hub.asked if path == "/api/validate-yaml")
    assert validated["content"] == (export / "README.md").read_text()
    assert next(content for path, _, content in hub.asked if path.endswith("/commit/main"))["summary"] == "the first"
    assert {token for _, token, _ in hub.asked} == {"Bearer hf_test"}
    assert "sent: http" in capsys.readouterr().out


def test_a_run_sends_what_it_has_made(export: Path, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    folder = export.parent / "run"
    export.rename(folder)
    inside = folder.parent / "moved" / "adapter"
    inside.parent.mkdir()
    folder.rename(inside)
    (inside.parent / "log.jsonl").write_text("{}")
    assert run(["push", str(inside.parent), "user/name", "--dry-run"]) == DONE
    assert "log.jsonl" not in capsys.readouterr().out


def spoil_card(export: Path) -> None:
    (export / "README.md").write_text("---\nbase_model: /home/a/b\n---\n")


def fail_verification(export: Path) -> None:
    (export / "verification.json").write_text(json.dumps({"passed": False, "failures": ["q_proj differs"]}))


def change_afterwards(export: Path) -> None:
    sums = {"export.json": "0" * 64}
    (export / "verification.json").write_text(json.dumps({"passed": True, "failures": [], "files_sha256": sums}))


def add_afterwards(export: Path) -> None:
    (export / "verification.json").write_text(json.dumps({"passed": True, "failures": [], "files_sha256": {}}))


@pytest.mark.ci
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (add_afterwards, "adapter_config.json has come since it was verified"),
        (lambda export: (export / "README.md").unlink(), "has no card; write one with secura card"),
        (spoil_card, "front matter is not valid"),
        (fail_verification, "says that the export differs: q_proj differs"),
        (change_afterwards, "export.json has changed since it was verified"),
        (lambda export: (export / "adapter_config.json").unlink(), "holds no adapter, model or export"),
        (lambda export: (export / "README.md").write_bytes(b"\xff\xfe"), "README.md is no text of UTF-8"),
        (lambda export: (export / "adapter_config.json").write_text("["), "adapter_config.json is not JSON"),
        (lambda export: (export / "verification.json").write_text("["), "verification.json is not JSON"),
        (lambda export: (export / "verification.json").write_text('{"passed": true}'), "verification.json is damaged"),
    ],
)
def test_what_is_not_fit_to_be_sent_is_refused(
    change: Any, says: str, export: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    change(export)
    assert run(["push", str(export), "user/name"]) == USAGE
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.err.count("\n") == 1
    assert hub.asked == []


def test_a_wrong_name_and_a_token_that_may_not_are_said_in_one_line(
    export: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["push", str(export), "a/b/c"]) == USAGE
    assert "a/b/c is no name of a repository" in capsys.readouterr().err
    hub.refuses_with = 403
    assert run(["push", str(export), "user/name"]) == USAGE
    assert "this token has no permission to write to user/name" in capsys.readouterr().err
    hub.refuses_with = 500
    assert run(["push", str(export), "user/name"]) == FAILED
    assert "the Hub refused it" in capsys.readouterr().err


def test_after_a_verification_that_passed_nothing_more_is_asked_for(
    export: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECURA_CACHE", str(export.parent / "cache"))
    few = ["--questions", "kinds", "--prompts", "2", "--max-tokens", "4", "--count", "1", "--no-vllm"]
    base, adapter = str(export.parent / "base"), str(export.parent / "adapter")
    assert run(["verify-export", base, adapter, str(export), *few]) == DONE
    capsys.readouterr()
    assert run(["push", str(export), "user/name", "--dry-run"]) == DONE
    assert "verify-export has not been run" not in capsys.readouterr().out
