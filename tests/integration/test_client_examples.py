"""The examples in the docstrings of the client's public names, against the sample models."""

import doctest
import inspect

import pytest
from structlog.testing import capture_logs

import prinz_enricher.client
from tests.support.running_service import Service

PUBLIC = {name: getattr(prinz_enricher.client, name) for name in prinz_enricher.client.__all__}
ADDRESS = "localhost:50051"
WITHOUT = {"close", "credentials"}
"""Methods whose example would be that of the `with` statement, or of `Tls`."""


def documented() -> dict[str, str]:
    """Return the docstrings of the public classes, and of their public methods, that have a service or an example."""
    found = {}
    for name, public in PUBLIC.items():
        if not inspect.isclass(public):
            continue
        found[name] = inspect.getdoc(public) or ""
        for method, member in vars(public).items():
            if (
                callable(getattr(public, method))
                and not method.startswith("_")
                and method not in {"close", "credentials"}
            ):
                found[f"{name}.{method}"] = (
                    inspect.getdoc(member.__func__ if isinstance(member, classmethod) else member) or ""
                )
    return found


@pytest.mark.parametrize("name", documented())
def test_examples_run(name: str, service: Service) -> None:
    """Every public class and method has an example, and it prints what it says."""
    text = documented()[name].replace(ADDRESS, service.address)
    test = doctest.DocTestParser().get_doctest(text, dict(PUBLIC), name, None, 0)
    output: list[str] = []

    # The service of the tests logs to the same standard output.
    with capture_logs():
        results = doctest.DocTestRunner(verbose=False).run(test, out=output.append)

    assert test.examples, f"{name} has no example"
    assert not results.failed, "".join(output)
