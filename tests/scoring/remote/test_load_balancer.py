"""How requests are shared out among bases: by the numbers, and before servers that die."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from prinz_enricher.scoring.remote.load_balancer import BackendHealth, LoadBalancer
from prinz_enricher.scoring.remote.upstream import UpstreamFailed
from tests.scoring.remote.conftest import Open, ask
from tests.support.deadline import wait_until
from tests.support.model_server import HTML, ModelServer, Reply, Request


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


def balancer_of(*urls: str, failures: int = 2, clock: Clock | None = None) -> LoadBalancer:
    """Return bases that are left out for 5 seconds."""
    return LoadBalancer(urls, failures=failures, pause=5.0, clock=clock or Clock())


def test_least_outstanding_first() -> None:
    """A request goes where the fewest are under way; among equals each base has its turn."""
    balancer = balancer_of("a", "b", "c")
    uses = [balancer.acquire() for _ in range(6)]
    assert [use.backend.url for use in uses if use] == ["a", "b", "c", "a", "b", "c"]
    for use in (uses[1], uses[4]):
        assert use is not None
        balancer.release(use, BackendHealth.WELL)
    taken = [balancer.acquire() for _ in range(2)]
    assert [use.backend.url for use in taken if use] == ["b", "b"]


def test_tried_bases_come_last() -> None:
    """What failed a request once gets it again only where there is no other."""
    balancer = balancer_of("a", "b")
    first = balancer.acquire()
    assert first is not None
    second = balancer.acquire([first.backend])
    assert second is not None
    assert second.backend is not first.backend
    assert not balancer.has_untried([first.backend, second.backend])
    assert balancer.acquire([first.backend, second.backend]) is not None


def test_base_that_fails_is_left_out() -> None:
    """After failures in a row a base gets nothing for a while, and then one request."""
    clock = Clock()
    balancer = balancer_of("a", "b", clock=clock)
    for _ in range(4):
        use = balancer.acquire()
        assert use is not None
        balancer.release(use, BackendHealth.FAILED if use.backend.url == "a" else BackendHealth.WELL)
    assert Counter(use.backend.url for use in (balancer.acquire() for _ in range(10)) if use) == {"b": 10}
    clock.now += 5.0
    assert Counter(use.backend.url for use in (balancer.acquire() for _ in range(10)) if use) == {"a": 1, "b": 9}


def test_all_left_out() -> None:
    """Where all bases are left out there is none, and it is said for how long."""
    clock = Clock()
    balancer = balancer_of("a", failures=1, clock=clock)
    use = balancer.acquire()
    assert use is not None
    balancer.release(use, BackendHealth.FAILED)
    clock.now += 2.0
    assert balancer.acquire() is None
    assert balancer.opens_in() == 3.0
    assert balancer.states() == {"a": ("open", 0)}


@pytest.mark.parametrize(("usual", "waited", "left_out"), [(0.01, 0.1, False), (0.01, 0.5, True), (2.0, 3.0, False)])
def test_callers_with_little_time(usual: float, waited: float, *, left_out: bool) -> None:
    """A deadline that comes before the answer counts against a base only when the base is far slower than usual."""
    clock = Clock()
    balancer = balancer_of("a", failures=1, clock=clock)
    for seconds, health in ((usual, BackendHealth.WELL), (waited, BackendHealth.FAILED)):
        use = balancer.acquire()
        assert use is not None
        clock.now += seconds
        balancer.release(use, health, ran_out=health is BackendHealth.FAILED)
    assert (balancer.acquire() is None) == left_out


def test_one_base_dead(model_server: ModelServer, open_client: Open, unused_tcp_port: int) -> None:
    """With nobody at one of two bases, no call is lost, and each is tried there a few times only."""
    dead = f"http://127.0.0.1:{unused_tcp_port}"
    client = open_client(model_server, dead, max_retries=0)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: ask(client), range(200)))
    assert len(model_server.requests) == 200
    assert client.states[dead][0] == "open"


def test_one_base_frozen(model_server: ModelServer, other_server: ModelServer, open_client: Open) -> None:
    """With one of two bases frozen, all calls are answered, nearly all of them by the other."""
    other_server.respond = lambda _: other_server.freeze
    client = open_client(model_server, other_server, timeout=0.5, breaker_failures=3)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: ask(client), range(300)))
    assert len(model_server.requests) == 300
    assert len(other_server.requests) < 30
    assert client.states[other_server.url][0] != "closed"


def test_one_base_serves_pages(model_server: ModelServer, other_server: ModelServer, open_client: Open) -> None:
    """A base that answers with web pages is passed over for one that scores."""
    other_server.respond = lambda _: Reply(b"<html>", headers=HTML)
    client = open_client(model_server, other_server)
    for _ in range(30):
        ask(client)
    assert len(other_server.requests) == 5


def test_requests_go_to_both(model_server: ModelServer, other_server: ModelServer, open_client: Open) -> None:
    """Two bases that are well share the requests."""

    def respond(_: Request) -> Reply:
        time.sleep(0.002)
        return Reply()

    model_server.respond = other_server.respond = respond
    client = open_client(model_server, other_server)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: ask(client), range(200)))
    assert 60 < len(model_server.requests) < 140
    assert len(model_server.requests) + len(other_server.requests) == 200


def test_breaker_opens_tries_and_closes(model_server: ModelServer, open_client: Open) -> None:
    """A server that fails is left alone; then one of many calls tries it, and the others follow when it is well."""
    model_server.respond = lambda _: Reply(b"", 503, {})
    client = open_client(model_server, max_retries=0, breaker_failures=3, breaker_pause=0.3)
    for _ in range(3):
        with pytest.raises(UpstreamFailed, match="HTTP 503"):
            ask(client)
    with pytest.raises(UpstreamFailed, match="left alone") as refused:
        ask(client)
    assert 0 < refused.value.retry_after <= 0.3
    assert len(model_server.requests) == 3

    model_server.respond = lambda _: model_server.freeze
    wait_until(lambda: client.states[model_server.url][0] == "half-open")
    with ThreadPoolExecutor(8) as threads:
        calls = [threads.submit(ask, client, 1.0) for _ in range(8)]
        assert sum(isinstance(call.exception(), UpstreamFailed) for call in calls) == 7
    assert len(model_server.requests) == 4

    model_server.respond = lambda _: Reply()
    wait_until(lambda: client.states[model_server.url][0] == "half-open")
    ask(client)
    assert client.states[model_server.url] == ("closed", 0)


def test_a_server_that_starts_anew_costs_no_call(model_server: ModelServer, open_client: Open) -> None:
    """A call waits for a base that has answered before, where it has the time; else it is told at once."""
    client = open_client(model_server, breaker_failures=2, breaker_pause=0.3)
    ask(client)
    answers = iter((503, 503, 200))
    model_server.respond = lambda _: Reply(status=next(answers))
    ask(client)

    model_server.respond = lambda _: Reply(b"", 503, {})
    with pytest.raises(UpstreamFailed, match="HTTP 503") as failed:
        ask(client, 0.25)
    assert 0 < failed.value.retry_after <= 1.0


def test_a_server_that_never_answered_is_not_waited_for(open_client: Open, unused_tcp_port: int) -> None:
    """Where nobody was ever there, callers are told after a few tries, and then at once."""
    client = open_client(f"http://127.0.0.1:{unused_tcp_port}", max_retries=0)
    for said in ("no connection", "left alone"):
        with pytest.raises(UpstreamFailed, match=said):
            ask(client)
