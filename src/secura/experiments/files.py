"""What a run leaves in its folder.

out/
├── adapter/          the adapter, its tokenizer, and which base it fits; for method full, model/
├── config.yaml       the configuration, with every default filled in
├── retention.json    scores before and after, flips, configuration, versions, seed
├── log.jsonl         loss, rate and memory of every step
├── secura_base.json  checksum of the model, so that no other is resumed with
├── secura_run.json   what is trained on, so that nothing else is resumed with
└── checkpoint-*/     the last two, to resume from
"""

BASE_RECORD = "secura_base.json"
"""In the folder of a run and beside an adapter: which model it belongs to."""
RUN_RECORD = "secura_run.json"
CONFIG_FILE = "config.yaml"
REPORT_FILE = "retention.json"
LOG_FILE = "log.jsonl"
MATRIX_FILE = "matrix.json"
"""In the folder of a sequence: every score."""
ADAPTER_FOLDER = "adapter"
MODEL_FOLDER = "model"
