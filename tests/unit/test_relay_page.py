"""docs/relay.md says what the relay is."""

from __future__ import annotations

import json
import re
import tomllib
from datetime import datetime
from pathlib import Path
from typing import Any

from google.protobuf.json_format import ParseDict
from pydantic import BaseModel

import pages
from keyfold.v1 import event_service_pb2 as pb
from keyfold_relay import cloudevents, config
from keyfold_relay.config import model
from keyfold_relay.meters import Meters
from keyfold_relay.relay import ExitCode

PAGE = (Path(__file__).parents[2] / "docs" / "relay.md").read_text(encoding="utf-8")

KINDS: dict[str, type[BaseModel]] = {
    "webhook": model.WebhookTarget,
    "file": model.FileTarget,
    "stdout": model.StdoutTarget,
    "s3": model.BucketTarget,
}


def _sample() -> dict[str, Any]:
    [text] = [one for one in pages.fenced(PAGE, "toml") if "[relay]" in one]
    return tomllib.loads(text)


def test_the_sample_has_every_setting_and_is_accepted(tmp_path: Path) -> None:
    """An operator finds each setting in the page's file, and the file as it stands is right."""
    sample = _sample()
    path = tmp_path / "relay.toml"
    [text] = [one for one in pages.fenced(PAGE, "toml") if "[relay]" in one]
    path.write_text(text)
    config.load(path)
    assert sample["keyfold"].keys() == model.Server.model_fields.keys()
    assert sample["relay"].keys() == model.Options.model_fields.keys()
    tables = {table["kind"]: table for table in sample["targets"].values()}
    for kind, fields in KINDS.items():
        assert tables[kind].keys() | {"filter", "usage"} == fields.model_fields.keys()
    assert tables["webhook"]["filter"].keys() == model.Filter.model_fields.keys()


def test_the_sample_shows_the_defaults() -> None:
    """Where a setting has a default, the page's file shows that value."""
    sample = _sample()["relay"]
    options = model.Options.model_validate(sample)
    assert options.park_after == model.Options().park_after
    assert options.drain == model.Options().drain
    assert options.name == model.Options().name
    tables = {table["kind"]: table for table in _sample()["targets"].values()}
    assert tables["webhook"]["batch"] == model.WebhookTarget.model_fields["batch"].default
    every = model.BucketTarget.model_fields["every"].default
    assert tables["s3"]["every"] == f"{every:g}s"


def test_the_page_lists_every_metric_and_exit_code() -> None:
    """What an operator alerts on is on the page, and nothing that does not exist."""
    listed = set(re.findall(r"`(keyfold_relay_\w+)`", PAGE))
    suffixes = {"counter": "_total", "info": "_info"}
    there = {family.name + suffixes.get(family.type, "") for family in Meters().registry.collect()}
    assert listed == there
    codes = set(map(int, re.findall(r"(?m)^\| (\d) \|", PAGE)))
    assert codes == set(map(int, ExitCode))


def test_the_example_of_counts_is_what_the_relay_sends() -> None:
    """The page's event of counts is the one that the relay makes of these counts, to the letter."""
    [shown] = pages.shown_json(PAGE)
    data = shown["data"]
    owner = {"cluster": data["cluster"], "organization": data["organization"]}
    counts = [ParseDict(owner | each, pb.UsageCount()) for each in data["counts"]]
    start = int(datetime.fromisoformat(data["start_time"]).timestamp())
    store = shown["source"].removeprefix("urn:keyfold:")
    made = cloudevents.usage(counts, start, int(data["span"].removesuffix("s")), store)
    assert shown == json.loads(made.body)
