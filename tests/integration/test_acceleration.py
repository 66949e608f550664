"""Acceleration of a whole service: by the setting and by tags, with what its states and its usage say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prinz_enricher.catalog.serving_rules import ServingOptions
from prinz_enricher.cli.demo import WINE_COLUMNS
from prinz_enricher.client import Client
from prinz_enricher.config import Settings
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.service.targets import Targets
from samples import fraud
from tests.support.guarded_service import PublishedCatalog, model_of
from tests.support.inline_pool import InlinePool
from tests.support.own_service import own_service
from tests.support.running_service import LONG, Service

FRAUD = "MLF-FraudDetection-3"
ELASTIC = "MLF-ElasticnetWineModel-1"


def test_accelerated_service(service: Service) -> None:
    """The models of the setting are accelerated in their sandbox, with the same answers, and the states say so."""
    payments = fraud.make_fraud(2_000, seed=7)[list(fraud.COLUMNS)]
    gaps = payments[:3].assign(amount=[float("nan"), 1.0, 2.0])
    with own_service(service.registry, scoring={"accelerate": ["MLF-Fraud*"]}) as fast:
        with Client(fast.address, timeout=LONG) as client, Client(service.address, timeout=LONG) as own:
            for rows in (payments, payments[:1], gaps):
                assert client.score(FRAUD, rows).batch.equals(own.score(FRAUD, rows).batch)
            client.score(ELASTIC, dict.fromkeys(WINE_COLUMNS, 0.5))
        models = {model.name: model for model in fast.stub().ListModels(pb.ListModelsRequest(), timeout=LONG).models}
        [frauds], [wine] = ([one for one in models[name].versions if one.version == "1"] for name in (FRAUD, ELASTIC))
        assert frauds.state_message.startswith("accelerated by onnxruntime, proven on ")
        assert "accelerated" not in wine.state_message
        usage = dict(fast.application._pool.usage())
        assert (usage[FRAUD, "1"].accelerated, usage[ELASTIC, "1"].accelerated) == (1, 0)


@pytest.mark.parametrize(
    ("wish", "setting", "accelerated"),
    [("", (), False), ("", ("ha*",), True), ("onnx", (), True), ("off", ("ha*",), False), ("", ("other",), False)],
)
def test_who_is_accelerated(wish: str, setting: tuple[str, ...], accelerated: bool) -> None:
    """The tag wins over the setting, and a version with another wish is another target."""
    catalog = PublishedCatalog()
    model = model_of("halves")
    version = replace(model.versions[0], options=ServingOptions(accelerate=wish))
    catalog.change(replace(model, versions=(version,)))
    settings = Settings.load({"scoring": {"accelerate": list(setting)}}, environment={})
    pool = InlinePool(lambda _: lambda batch, _: batch)
    try:
        target = Targets(catalog, pool, settings).of(version)
        assert target.accelerate is accelerated
        assert replace(target, accelerate=not accelerated).key != target.key
    finally:
        pool.close(1.0)
