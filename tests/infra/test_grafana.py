"""The dashboard asks Prometheus for metrics that a run makes, by labels that they have."""

import json
import re
from pathlib import Path
from typing import Any

from jobs.run.measures import RUN_TAG, Time, exported

DASHBOARD = Path(__file__).parents[2] / "infra/grafana/keyanon.json"
METRIC = re.compile(r"\b(?:ray_)?keyanon_\w+")
SELECTOR = re.compile(r"(\w+)\{([^}]*)\}")


def expressions(node: Any) -> list[str]:
    """Every query in the dashboard, those of its variables too."""
    if isinstance(node, list):
        return [found for one in node for found in expressions(one)]
    if not isinstance(node, dict):
        return []
    own = [node[name] for name in ("expr", "query") if isinstance(node.get(name), str)]
    return own + [found for one in node.values() for found in expressions(one)]


def queries() -> list[str]:
    return [text for text in expressions(json.loads(DASHBOARD.read_text())) if "keyanon" in text]


def test_every_query_names_an_existing_metric_and_every_metric_is_shown() -> None:
    named = {name for query in queries() for name in METRIC.findall(query)}
    assert named == set(exported())
    assert all(METRIC.search(query) for query in queries()) and len(queries()) > 7


def test_queries_choose_by_labels_that_their_metric_has() -> None:
    metrics = exported()
    for query in queries():
        for name, selector in SELECTOR.findall(query):
            labels = dict(re.findall(r'(\w+)=~?"([^"]*)"', selector))
            assert labels.keys() <= {RUN_TAG, *metrics[name].tags}, query
            assert labels.get("time", Time.WORKING) in set(Time), query
            assert labels.get("status", "quarantined") in {"anonymized", "no_face", "quarantined"}, query
        for grouped in re.findall(r"by \((\w+)\)", query):
            used = set(METRIC.findall(query))
            assert all(grouped in (RUN_TAG, *metrics[name].tags) for name in used), query


def test_panels_do_not_lie_on_each_other_and_each_has_a_query() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    places = [tuple(panel["gridPos"][name] for name in "xy") for panel in panels]
    assert len(set(places)) == len(places) == len({panel["id"] for panel in panels})
    assert all(panel["targets"] for panel in panels)
