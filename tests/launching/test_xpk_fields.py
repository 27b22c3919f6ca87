"""What `supernet launch gke` writes beside what xpk writes for the same requests."""

import json
import re

import pytest
import xpk_fields
import yaml
from conftest import ROOT

from supernet_jax.launching.gke import Gke


def test_jobs_are_those_of_xpk_but_for_what_the_page_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs/launch/gke.md").read_text("utf-8")
    told = re.findall(r"`([^`]+)`", "".join(re.findall(r"^\|([^|]+)\|", page, re.MULTILINE)))
    differing = set()
    written = json.loads(xpk_fields.FIELDS.read_text("utf-8"))
    assert written.keys() == xpk_fields.REQUESTS.keys()
    for name, (accelerator, slices, _, capacity) in xpk_fields.REQUESTS.items():
        job = Gke(
            config="configs/digits.py",
            out="gs://bucket/a",
            image=xpk_fields.IMAGE,
            name=xpk_fields.NAME,
            queue=xpk_fields.QUEUE,
            accelerator=accelerator,
            slices=slices,
            capacity=capacity,
            restarts=0,
        )
        ours, theirs = xpk_fields.fields(yaml.safe_load(job.script.text)), written[name]
        places = {place for place in ours | theirs if ours.get(place) != theirs.get(place)}
        assert len(ours.keys() - places) >= 19, name  # the same
        differing |= places
    assert {place for place in differing if not place.startswith(tuple(told))} == set()
    assert {place for place in told if not any(d.startswith(place) for d in differing)} == set()
