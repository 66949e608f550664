"""What tags say of how a model is served."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prinz_enricher.catalog.serving_rules import MAX_REPLICAS, NO_OPTIONS, ServingOptions, read_serving_options


@pytest.mark.parametrize(
    ("version_tags", "model_tags", "options"),
    [
        ({}, {}, NO_OPTIONS),
        ({"prinz.batching": "off"}, {"prinz.batching": "on"}, ServingOptions(batching="off")),
        ({}, {"prinz.batching": " ON "}, ServingOptions(batching="on")),
        ({"prinz.batching": "maybe"}, {"prinz.batching": "off"}, ServingOptions(batching="off")),
        ({"prinz.replicas": "3"}, {"prinz.replicas": "2"}, ServingOptions(replicas=3)),
        ({"prinz.replicas": "many"}, {"prinz.replicas": "2"}, ServingOptions(replicas=2)),
        ({"prinz.replicas": "-1"}, {}, NO_OPTIONS),
        ({"prinz.replicas": "1000000000"}, {}, NO_OPTIONS),
        ({"prinz.replicas": "٣"}, {}, NO_OPTIONS),
        ({"prinz.preload": "true"}, {}, ServingOptions(preload=True)),
        ({}, {"prinz.preload": "true"}, NO_OPTIONS),
        ({"prinz.preload": "no"}, {}, NO_OPTIONS),
        ({"prinz.route": "remote:there"}, {"prinz.route": "local"}, ServingOptions(route="remote:there")),
        ({}, {"prinz.route": " local "}, ServingOptions(route="local")),
        ({"prinz.environment": "current"}, {}, ServingOptions(environment="current")),
        ({"prinz.environment": " Isolated"}, {"prinz.environment": "current"}, ServingOptions(environment="isolated")),
        ({"prinz.environment": "conda"}, {"prinz.environment": "auto"}, ServingOptions(environment="auto")),
        ({"prinz.environment": "/usr/bin/python"}, {}, NO_OPTIONS),
        ({"prinz.accelerate": "ONNX"}, {"prinz.accelerate": "off"}, ServingOptions(accelerate="onnx")),
        ({"prinz.accelerate": "yes"}, {"prinz.accelerate": "off"}, ServingOptions(accelerate="off")),
    ],
)
def test_serving_options(version_tags: dict[str, str], model_tags: dict[str, str], options: ServingOptions) -> None:
    """A version's own tag wins, its model's comes next, and what is no value counts as not there."""
    assert read_serving_options(version_tags, model_tags) == options


@given(st.text(max_size=20))
def test_any_text_is_read(text: str) -> None:
    """A registry can't break the service by a tag, nor ask for more workers than there may be."""
    tags = {"prinz.batching": text, "prinz.replicas": text, "prinz.preload": text, "prinz.environment": text}
    assert 0 <= read_serving_options(tags, {}).replicas <= MAX_REPLICAS
