import pytest

from secura.errors import ConfigError
from secura.experiments.methods.checks import check_settings
from secura.experiments.methods.defaults import with_method_defaults
from secura.experiments.settings.layers import load_config_of
from secura.experiments.settings.run import RunConfig
from secura.experiments.settings.sequence import SequenceConfig

BOTH = (RunConfig, SequenceConfig)


def _check(kind: type[RunConfig] | type[SequenceConfig], *settings: str) -> None:
    check_settings(with_method_defaults(load_config_of(kind, None, settings)))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["training.best=gain"], "nothing is evaluated; set training.eval_every"),
        (["training.patience=2"], "set training.best too"),
        (["training.best=gain", "training.eval_every=5", "method.name=lora", "retention.keep=0.9"], "certifies it by"),
        (["training.best=gain", "training.eval_every=5", "method.fold_every=5"], "set method.fold_every to null"),
        (
            ["training.best=retention", "training.eval_every=5", "method.name=lora", "retention.path=none"],
            "leave out --retain none",
        ),
        (["training.packing=true", "strategy.name=lwf"], "strategy lwf goes by rows that are padded"),
        (["model.load_in_4bit=true", "method.name=full"], "method full reads or changes the base's weights"),
        (["model.load_in_8bit=true", "method.name=osf"], "choose lora, dora or one of secura's"),
    ],
)
def test_settings_of_one_run_that_cannot_go_together_are_refused(settings: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        _check(RunConfig, *settings)


@pytest.mark.parametrize(
    "setting",
    ["training.eval_every=5", "training.packing=true", "training.tokens_per_step=9", "training.report_to=[wandb]"],
)
def test_what_only_a_run_of_one_task_does_is_refused_in_a_sequence(setting: str) -> None:
    with pytest.raises(ConfigError, match="is for secura train, which learns one task"):
        _check(SequenceConfig, setting)


@pytest.mark.parametrize("kind", BOTH)
def test_every_default_passes(kind: type[RunConfig] | type[SequenceConfig]) -> None:
    _check(kind)


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["method.name=lora", "method.fold_every=2"], "method lora is PEFT's own and cannot fold"),
        (["method.name=full", "method.fold_every=2"], "method full has nothing to fold"),
        (["method.fold_every=0"], "method.fold_every is 0; give a number of steps, at least 1"),
        (["method.calibration=rows.jsonl"], "method.calibration is for corda, .* and method.name is secura"),
        (["method.name=full", "method.adapter.r=4"], "method full has no adapter"),
        (["method.adapter.tua=1"], "the nearest is method.adapter.tau"),
        (["method.name=lora", "strategy.name=lwf", "training.precision=fp16"], "set training.precision to bf16"),
        (["strategy.settings.strength=1"], "sequential has no settings"),
        (["retention.path=none", "retention.min_retention=0.9"], "needs questions to measure it by"),
    ],
)
def test_what_cannot_work_is_refused_alike_for_one_task_and_for_several(
    kind: type[RunConfig] | type[SequenceConfig], settings: list[str], says: str
) -> None:
    with pytest.raises(ConfigError, match=says) as raised:
        _check(kind, *settings)
    assert "\n" not in str(raised.value)


def test_a_model_of_ones_own_needs_data_of_ones_own() -> None:
    with pytest.raises(ConfigError, match="name a file with --data"):
        _check(RunConfig, "model.path=mine")


def test_texts_of_earlier_tasks_are_for_several() -> None:
    _check(SequenceConfig, "strategy.name=own_text", "strategy.settings.task_texts=5")
    with pytest.raises(ConfigError, match=r"settings\.task_texts is about earlier tasks, and a run learns one"):
        _check(RunConfig, "strategy.name=own_text", "strategy.settings.task_texts=5")
