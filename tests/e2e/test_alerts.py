"""Each alert, provoked in a running Prometheus: the fault, the alert, and the runbook that ends it.

Some scenes at a time play side by side, each with servers of its own, in front of one Prometheus
that has the rules with shorter durations. Most of a scene is waiting.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from operator import lt
from types import ModuleType
from typing import Any, Final

import pytest
import yaml

import alarms
import postgres
import runbooks
import stalls
from alarms import Prometheus
from contract.counterparts import NotInstalledError, without
from counterparts import openbao
from e2e.alert_scenes import callers, events, kms, probe, regions, store
from e2e.alert_scenes.stage import Scene, Stage
from e2e.hurried_server import nursery_of

pytestmark = pytest.mark.timeout(900)

RULES: Final = alarms.RULES.read_text(encoding="utf-8")

ALONE: Final = "absent"
"""The scene in which Prometheus reads the metrics of no server."""

_SPAN: Final = r"\b\d+[smh]\b"
"""A span of time in a rule, such as `5m`."""

_AT_ONCE: Final = 8
"""Scenes at a time. All at once would start thirty servers at once, and wait for each of them."""


def _of(*modules: ModuleType) -> dict[str, Scene]:
    found: dict[str, Scene] = {}
    for module in modules:
        for name, scene in vars(module).items():
            if isinstance(scene, Scene):
                assert name not in found
                found[name] = scene
    return found


SCENES: Final = _of(store, events, probe, kms, regions, callers)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[None]]]:
    """Plays all scenes; gives the end of each."""
    # Here, since both end with the thread that starts them.
    database = postgres.shared("15")
    assert database.migrated
    try:
        openbao.shared()
    except NotInstalledError as error:
        without(error)
    folder = tmp_path_factory.mktemp("alerts")
    for name in ("prometheus", *SCENES):
        (folder / name).mkdir()
    nursery = nursery_of(folder / "odd")
    try:
        with (
            Prometheus(folder / "prometheus") as prometheus,
            ThreadPoolExecutor(_AT_ONCE) as pool,
        ):

            def begin(name: str) -> Future[None]:
                stage = Stage(name, folder / name, prometheus, database, nursery)
                return pool.submit(_play, SCENES[name], stage)

            alone = begin(ALONE)
            alone.exception()
            ends = {ALONE: alone} | {name: begin(name) for name in SCENES if name != ALONE}
            for end in ends.values():
                end.exception()
            yield ends
    finally:
        nursery.close()


def _play(scene: Scene, stage: Stage) -> None:
    """Plays a scene, in which every alert of it fires, and ends by its runbook."""
    try:
        scene.play(stage)
        logs = stage.logs()
    finally:
        stage.close()
    assert stage.fired == stage.ended == set(scene.alerts)
    assert stage.followed >= {alert for alert in scene.alerts if runbooks.commands(alert)}
    stalls.check([stall for log in logs for stall in stalls.logged(log)])


@pytest.mark.parametrize("alert", alarms.names(RULES))
def test_an_alert_fires_and_its_runbook_ends_it(
    alert: str, played: dict[str, Future[None]]
) -> None:
    """The fault sets the alert off, and the page's own commands lead out of it."""
    [name] = [name for name, scene in SCENES.items() if alert in scene.alerts]
    played[name].result()


def test_each_alert_has_one_scene() -> None:
    """No alert is left that nobody has seen fire, and no scene is about an alert that is gone."""
    provoked = Counter(alert for scene in SCENES.values() for alert in scene.alerts)
    assert provoked == Counter(alarms.names(RULES))


def test_shorter_rules_differ_in_durations_alone() -> None:
    """What fires in these tests is what fires in production, only sooner."""
    whole, short = (rules_of(text) for text in (RULES, alarms.shortened(RULES)))
    assert len(whole) == len(short) > 20
    changed = 0
    for before, after in zip(whole, short, strict=True):
        assert after.keys() == before.keys()
        assert seconds(after.pop("for", "0s")) <= seconds(before.pop("for", "0s"))
        old, new = (rule.pop("expr").split() for rule in (before, after))
        assert after == before
        assert len(new) == len(old)
        for at, (one, other) in enumerate(zip(old, new, strict=True)):
            if one == other:
                continue
            changed += 1
            spans = [re.findall(_SPAN, word) for word in (one, other)]
            if spans[0]:
                # A range, the steps of one, or an offset.
                assert re.sub(_SPAN, "", one) == re.sub(_SPAN, "", other)
                assert all(map(lt, map(seconds, spans[1]), map(seconds, spans[0])))
            else:
                # An age in seconds.
                assert old[at - 1] == ">"
                assert "_seconds" in old[at - 2]
                assert 0 < int(other) < int(one)
    assert changed > 20


def rules_of(text: str) -> list[dict[str, Any]]:
    """Returns the rules of a file."""
    return [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]


def seconds(span: str) -> int:
    """Returns the seconds of a span, such as `5m`."""
    return int(span[:-1]) * {"s": 1, "m": 60, "h": 3600}[span[-1]]
