import pytest
import torch

from secura.errors import ConfigError
from secura.experiments.comparison.plan.meta_model import model_on_meta
from secura.experiments.comparison.plan.model_configs import Backbone, backbones, config_of_model
from secura.training.meta_layers import all_weights


@pytest.mark.parametrize("backbone", backbones(), ids=lambda backbone: backbone.ids[0])
def test_a_backbone_has_as_many_weights_as_its_publisher_says(backbone: Backbone) -> None:
    model = model_on_meta(backbone.config, "full", {}, torch.bfloat16)
    assert sum(weight.numel() for weight in all_weights(model)) == backbone.weights


def test_a_model_whose_sizes_are_not_known_is_refused_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match="google/gemma-2-2b"):
        config_of_model("./no/such/model")
