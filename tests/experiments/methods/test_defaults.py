import pytest

from secura.experiments.methods.defaults import METHOD_DEFAULTS, with_method_defaults
from secura.experiments.settings.layers import load_config, load_config_of
from secura.experiments.settings.sequence import SequenceConfig


def test_what_a_configuration_leaves_open_becomes_the_methods_own() -> None:
    config = with_method_defaults(load_config(None, ["method.name=secura-paper"], {}))
    assert config.training.learning_rate == METHOD_DEFAULTS["secura-paper"].learning_rate
    assert config.method.fold_every == 1


def test_what_a_configuration_sets_stays() -> None:
    settings = ["method.name=secura-paper", "method.fold_every=7", "training.learning_rate=0.5"]
    config = with_method_defaults(load_config(None, settings, {}))
    assert (config.method.fold_every, config.training.learning_rate) == (7, 0.5)


@pytest.mark.parametrize(("method", "boundary"), [("secura", "fold"), ("lora", "keep"), ("corda", "anew")])
def test_a_sequence_knows_its_boundary(method: str, boundary: str) -> None:
    config = with_method_defaults(load_config_of(SequenceConfig, None, [f"method.name={method}"]))
    assert config.method.boundary == boundary


def test_over_a_sequence_secura_moves_each_weight_less_unless_told_otherwise() -> None:
    def adapter(*settings: str) -> dict[str, object]:
        return with_method_defaults(load_config_of(SequenceConfig, None, list(settings))).method.adapter

    assert adapter("method.name=secura") == {"tau": 0.1}
    assert adapter("method.name=secura", "method.adapter.tau=0.2", "method.adapter.r=4") == {"tau": 0.2, "r": 4}
    assert adapter("method.name=lora") == {}
    assert with_method_defaults(load_config(None, ["method.name=secura"], {})).method.adapter == {}


def test_a_sequence_takes_a_hundred_steps_a_task_whatever_else_is_set() -> None:
    def training(*settings: str) -> tuple[int | None, float | None]:
        config = with_method_defaults(load_config_of(SequenceConfig, None, list(settings)))
        return config.training.steps, config.training.epochs

    assert training() == training("training.batch_size=4") == (100, None)
    assert training("training.epochs=2.0") == (None, 2.0)
    assert training("training.steps=7") == (7, None)


def test_a_sequence_asks_twenty_questions_a_family_whatever_else_is_set() -> None:
    for settings in ([], ["retention.min_retention=0.9"]):
        assert load_config_of(SequenceConfig, None, settings).retention.per_family == 20


def test_where_no_method_is_named_a_model_of_the_users_own_learns_with_lora_on_every_linear_layer() -> None:
    def chosen(**flags: object) -> tuple[str, dict[str, object], object]:
        config = with_method_defaults(load_config(None, [], flags))
        again = with_method_defaults(config)
        assert again == config
        return config.method.name, config.method.adapter, config.training.learning_rate

    own = {"model.path": "own"}
    assert chosen() == ("secura", {}, 1e-1)
    assert chosen(**own) == ("lora", {"target_modules": "all-linear"}, 2e-4)
    assert chosen(**own, **{"method.adapter.r": 4}) == ("lora", {"target_modules": "all-linear", "r": 4}, 2e-4)
    assert chosen(**own, **{"method.name": "lora"}) == ("lora", {}, 2e-4)
    assert chosen(**own, **{"method.name": "secura"}) == (
        "secura",
        {"selection": "activation", "norm": "row_bounded"},
        1e-2,
    )


def test_secura_bounds_rows_of_what_a_real_model_uses_least_unless_told_otherwise() -> None:
    def adapter(*settings: str) -> dict[str, object]:
        return with_method_defaults(load_config(None, list(settings), {})).method.adapter

    own = ("model.path=own", "method.name=secura")
    assert adapter("method.name=secura") == {}
    assert adapter(*own) == {"selection": "activation", "norm": "row_bounded"}
    as_published = {"selection": "least", "norm": "bounded"}
    assert adapter(*own, *(f"method.adapter.{name}={value}" for name, value in as_published.items())) == as_published
    assert adapter(*own, "method.start_from=adapter") == {}  # which has settings of its own
    assert adapter("model.path=own", "method.name=secura-paper") == {}


def test_gradients_of_the_natural_scale_are_shortened_to_less() -> None:
    def longest(*settings: str) -> float | None:
        return with_method_defaults(load_config(None, list(settings), {})).training.max_grad_norm

    assert longest("method.name=lora") == longest("method.name=secura", "method.adapter.scale=plain") == 1.0
    assert longest("method.name=secura") == longest("method.name=cur-lora") == 0.05
    assert longest("method.name=secura", "training.max_grad_norm=0.3") == 0.3
