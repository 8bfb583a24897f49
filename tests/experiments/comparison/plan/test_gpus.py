from torch.testing import assert_close

from secura.experiments.comparison.plan.gpus import GPUS


def test_hours_follow_from_the_peak_and_the_stated_share_of_it() -> None:
    a100 = GPUS[0]
    assert_close(a100.hours(312e12 * 0.35 * 3600), 1.0)
