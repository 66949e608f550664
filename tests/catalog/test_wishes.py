"""What tags wish of how a model is served."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prinz_enricher.catalog.wishes import MOST_REPLICAS, NO_WISHES, Wishes, read_wishes


@pytest.mark.parametrize(
    ("version_tags", "model_tags", "wishes"),
    [
        ({}, {}, NO_WISHES),
        ({"prinz.batching": "off"}, {"prinz.batching": "on"}, Wishes(batching="off")),
        ({}, {"prinz.batching": " ON "}, Wishes(batching="on")),
        ({"prinz.batching": "maybe"}, {"prinz.batching": "off"}, Wishes(batching="off")),
        ({"prinz.replicas": "3"}, {"prinz.replicas": "2"}, Wishes(replicas=3)),
        ({"prinz.replicas": "many"}, {"prinz.replicas": "2"}, Wishes(replicas=2)),
        ({"prinz.replicas": "-1"}, {}, NO_WISHES),
        ({"prinz.replicas": "1000000000"}, {}, NO_WISHES),
        ({"prinz.replicas": "٣"}, {}, NO_WISHES),
        ({"prinz.preload": "true"}, {}, Wishes(preload=True)),
        ({}, {"prinz.preload": "true"}, NO_WISHES),
        ({"prinz.preload": "no"}, {}, NO_WISHES),
        ({"prinz.route": "remote:there"}, {"prinz.route": "local"}, Wishes(route="remote:there")),
        ({}, {"prinz.route": " local "}, Wishes(route="local")),
        ({"prinz.environment": "current"}, {}, Wishes(environment="current")),
        ({"prinz.environment": " Isolated"}, {"prinz.environment": "current"}, Wishes(environment="isolated")),
        ({"prinz.environment": "conda"}, {"prinz.environment": "auto"}, Wishes(environment="auto")),
        ({"prinz.environment": "/usr/bin/python"}, {}, NO_WISHES),
    ],
)
def test_wishes(version_tags: dict[str, str], model_tags: dict[str, str], wishes: Wishes) -> None:
    """A version's own tag wins, its model's comes next, and what is no value counts as not there."""
    assert read_wishes(version_tags, model_tags) == wishes


@given(st.text(max_size=20))
def test_any_text_is_read(text: str) -> None:
    """A registry can't break the service by a tag, nor ask for more workers than there may be."""
    tags = {"prinz.batching": text, "prinz.replicas": text, "prinz.preload": text, "prinz.environment": text}
    assert 0 <= read_wishes(tags, {}).replicas <= MOST_REPLICAS
