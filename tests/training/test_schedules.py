"""Schedules beside the formulas of DINO's code (main_dino.py, utils.cosine_scheduler), with numpy."""

import numpy as np
import pytest

from hf_vit_suite.training.dino import cosine_schedule, epoch_warm_up


@pytest.mark.parametrize(("start", "end"), [(0.996, 1.0), (0.04, 0.4)])
def test_cosine_schedule_is_dinos(start: float, end: float):
    steps = np.arange(50)
    expected = end + 0.5 * (start - end) * (1 + np.cos(np.pi * steps / len(steps)))
    assert [cosine_schedule(start, end, step, 50) for step in steps] == pytest.approx(expected.tolist())


@pytest.mark.parametrize("epochs", [0, 1, 2, 7])
def test_temperature_warms_up_epoch_by_epoch_as_dinos(epochs: int):
    expected = np.concatenate((np.linspace(0.04, 0.07, epochs), np.ones(10 - epochs) * 0.07))
    found = [epoch_warm_up(0.04, 0.07, epoch, epochs) for epoch in range(10)]
    assert found == pytest.approx(expected.tolist())
