"""PEFT's own test suite, of the installed version, with SECURA in the place of PEFT's methods.

The suite is in PEFT's source distribution. pip fetches it once, into `.cache/peft_suite`.
"""

import importlib.metadata
import json
import os
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from peft_suite.tiny_hub import save_tiny_hub

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".cache" / "peft_suite"
FILES = (
    "test_config.py",
    "test_custom_models.py",
    "test_decoder_models.py",
    "test_encoder_decoder_models.py",
    "test_feature_extraction_models.py",
    "test_lora_conversion.py",
    "test_low_level_api.py",
    "test_other.py",
    "test_seq_classifier.py",
    "test_token_classification_qa.py",
)
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "no norm": {"norm": "none"},
    "rows bounded": {"norm": "row_bounded"},
    "paper's norm": {"norm": "paper"},
    "CUR": {"change": "cur"},
    "low rank": {"change": "low_rank"},
    "fixed reference": {"reference": "fixed"},
}
FEWEST_PASSED = 700


@pytest.fixture(scope="session")
def suite() -> Path:
    """Folder of PEFT's tests."""
    version = importlib.metadata.version("peft")
    folder = CACHE / f"peft-{version}"
    if not folder.is_dir():
        fetch = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", f"peft=={version}"]
        fetched = subprocess.run([*fetch, "--dest", str(CACHE)], capture_output=True, text=True, check=False)
        if fetched.returncode:
            pytest.skip(f"pip could not fetch the source of peft {version}: {fetched.stderr[-500:]}")
        with tarfile.open(CACHE / f"peft-{version}.tar.gz") as archive:
            archive.extractall(CACHE, filter="data")
    tests = folder / "tests"
    (tests / "__init__.py").touch()  # a package again: its modules import each other
    return tests


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_hub(tmp_path_factory.mktemp("hub"))


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(SETTINGS[name], id=name, marks=pytest.mark.ci if name == "default" else pytest.mark.slow)
        for name in SETTINGS
    ],
)
def test_pefts_suite_passes(settings: dict[str, Any], suite: Path, hub: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    options = ["-c", HERE / "suite.ini", "--rootdir", suite.parent, "-p", "suite_plugin", "--junitxml", report]
    files = [suite / name for name in FILES]
    paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "--secura-settings", json.dumps(settings), *files],
        cwd=hub,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-20_000:] + ran.stderr[-2_000:]
    counts = next(ET.parse(report).iter("testsuite")).attrib
    passed = int(counts["tests"]) - sum(int(counts[kind]) for kind in ("skipped", "failures", "errors"))
    assert passed >= FEWEST_PASSED
