"""The simulation of costs at scale: known results, and the measured rows that it is checked against."""

import json

import pytest

from studies.cost import GPUS, PARTS, Clock, Cores, Layout, Station, Training, check, layouts, plain

DATA = json.loads(PARTS.read_text())
QUIET = plain(DATA["parts"]) | {"noise": 0.0}


def test_two_jobs_on_one_core_take_twice_as_long_and_a_station_serves_in_order() -> None:
    clock, ends = Clock(), []
    cores, station = Cores(clock, 1), Station(clock, 2)
    for seconds in (1.0, 2.0):
        cores.submit(seconds, lambda: ends.append(clock.now))
    clock.run()
    assert ends == [pytest.approx(2), pytest.approx(3)]
    ends.clear()
    begun = clock.now
    for _ in range(3):
        station.submit(1.0, lambda: ends.append(clock.now - begun))
    clock.run()
    assert ends == [pytest.approx(1), pytest.approx(1), pytest.approx(2)]


def test_one_gpu_takes_what_arithmetic_says() -> None:
    groups, p = 6, QUIET
    roll = p["rollouts"] * p["actions"] / p["frames_per_second"] + p["act_seconds"]
    last = p["judge_seconds"] + p["result_bytes"] / p["bandwidth"] + p["driver_seconds"]
    update = p["update_fixed"] + groups * p["update_seconds"]
    expected = p["weight_bytes"] / p["bandwidth"] + groups * roll + last + update
    assert Training(QUIET, Layout(1, groups=groups)).run().step_seconds == pytest.approx(expected)


def test_one_step_ahead_takes_the_longer_of_rollouts_and_update() -> None:
    balanced = Layout(2, groups=12, ahead=1)
    step = Training(QUIET, balanced, steps=40).run()
    update = QUIET["update_fixed"] + 12 * QUIET["update_seconds"]
    assert step.bottleneck == "update"
    assert step.step_seconds == pytest.approx(update, rel=0.02)
    waiting = Training(QUIET, Layout(2, groups=12, learners=1), steps=40).run()
    assert waiting.step_seconds > step.step_seconds + 20


def test_the_measured_rows_are_met() -> None:
    errors = [found / measured - 1 for _, _, measured, found in check(DATA["check"])]
    assert all(abs(error) < 0.06 for error in errors)


def test_more_gpus_never_slow_a_step_of_as_many_groups() -> None:
    steps = [Training(QUIET, Layout(gpus, learners=gpus, groups=24)).run().step_seconds for gpus in (1, 2, 4, 8)]
    assert steps == sorted(steps, reverse=True)
    assert all(layout.workers >= 1 for gpus in GPUS for layout in layouts(gpus).values())
