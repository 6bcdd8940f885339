"""Metrics in Prometheus text format: counts and times, never ids."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from typing import ParamSpec, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from engine.errors import EngineError
from engine.installation import version
from engine.metrics import coarse_ms

P = ParamSpec("P")
R = TypeVar("R")

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.3, 1, 3, 10, 30, 100)

_registry = CollectorRegistry()
ProcessCollector(registry=_registry)
PlatformCollector(registry=_registry)
_calls = Counter("medsec_calls", "Calls of the engine", ("method", "outcome"), registry=_registry)
_call_seconds = Histogram(
    "medsec_call_seconds", "Time of a call", ("method",), registry=_registry, buckets=_SECONDS
)
_requests = Counter(
    "medsec_http_requests", "HTTP requests", ("method", "route", "status"), registry=_registry
)
_request_seconds = Histogram(
    "medsec_http_request_seconds", "Time of an HTTP request", ("route",),
    registry=_registry, buckets=_SECONDS,
)  # fmt: skip
_images = Gauge("medsec_images", "Images by state", ("state",), registry=_registry)
_held = Gauge("medsec_held_bytes", "Memory of what is kept", ("what",), registry=_registry)
_server = Gauge("medsec_server", "This server", ("server", "release"), registry=_registry)
_state = Gauge("medsec_state", "Condition of the system", ("what",), registry=_registry)


def counted(name: str, method: Callable[P, R]) -> Callable[P, R]:
    """A method whose calls are counted by outcome, and timed."""

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        began = time.perf_counter()
        outcome = "failed"
        try:
            result = method(*args, **kwargs)
            outcome = "ok"
            return result
        except EngineError as err:
            outcome = err.code
            raise
        finally:
            _calls.labels(name, outcome).inc()
            _call_seconds.labels(name).observe(_coarse(time.perf_counter() - began))

    return call


def count_request(method: str, route: str, status: int, seconds: float) -> None:
    """One HTTP request; the route has no ids and is one of a limited number."""
    _requests.labels(method, route, str(status)).inc()
    _request_seconds.labels(route).observe(_coarse(seconds))


def _coarse(seconds: float) -> float:
    """The nearest power of two in ms: sums of exact times would give the time of each call."""
    return coarse_ms(seconds * 1000) / 1000


def text(
    images: Mapping[str, int],
    condition: Mapping[str, float],
    held: Mapping[str, int],
    server_id: str = "",
) -> bytes:
    """Everything, as Prometheus reads it.

    Args:
        images: How many there are by state.
        condition: Numbers of the health page.
        held: Bytes of each cache.
        server_id: Where this is one of several servers.
    """
    _server.clear()
    _server.labels(server_id, version()).set(1)
    _images.clear()
    for state, count in images.items():
        _images.labels(state).set(count)
    for what, value in condition.items():
        _state.labels(what).set(value)
    for what, size in held.items():
        _held.labels(what).set(size)
    return generate_latest(_registry)
