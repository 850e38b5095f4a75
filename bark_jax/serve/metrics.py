"""Metrics in Prometheus' form."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from bark_jax.serve.limits import Admission
from bark_jax.serve.service import Service

MEDIA_TYPE = CONTENT_TYPE_LATEST
# A stream of a small model on a GPU begins within a tenth of a second, a long text on a CPU takes minutes.
_SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300)
OUTCOMES = ("ok", "refused", "busy", "failed", "timeout", "left")


class Metrics:
    """Counts of one application; each has a registry of its own.

    Attributes:
      requests: speech requests by outcome: "ok", "refused" (the request's fault), "busy" (429), "failed" (the server's
        fault), "timeout", and "left" for a client that did not wait.
      audio_seconds: seconds of audio that was sent or encoded; its rate is the throughput.
      characters: of texts that were spoken.
      first_audio: seconds from a request's arrival to its first audio.
      duration: seconds from a request's arrival to its end.
    """

    def __init__(self, service: Service, admission: Admission):
        self._registry = CollectorRegistry()
        registry = self._registry
        self.requests = Counter("bark_jax_requests", "Speech requests by outcome.", ["outcome"], registry=registry)
        for outcome in OUTCOMES:
            self.requests.labels(outcome)  # at 0 from the start, so that rates are right
        self.audio_seconds = Counter("bark_jax_audio_seconds", "Seconds of audio sent.", registry=registry)
        self.characters = Counter("bark_jax_characters", "Characters of texts that were spoken.", registry=registry)
        kind = ["kind"]
        self.first_audio = Histogram(
            "bark_jax_first_audio_seconds",
            "Seconds to the first audio, of streams and files.",
            kind,
            buckets=_SECONDS,
            registry=registry,
        )
        self.duration = Histogram(
            "bark_jax_request_seconds", "Seconds of a request.", kind, buckets=_SECONDS, registry=registry
        )

        self._registry.register(_Now(service, admission))
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        """Returns all metrics, in the format that MEDIA_TYPE names."""
        return generate_latest(self._registry)


class _Now(Collector):
    """Figures that service and admission count themselves, read at each scrape."""

    def __init__(self, service: Service, admission: Admission):
        self._service, self._admission = service, admission

    def collect(self) -> Iterator[Metric]:
        """As `Collector.collect`."""
        service, admission, usage = self._service, self._admission, self._service.usage
        yield _gauge("ready", "1 once the programs are compiled.", service.is_ready)
        yield _gauge("requests_speaking", "Requests that are spoken or wait for it.", admission.n_speaking)
        yield _gauge("requests_open", "Requests without a complete answer.", admission.n_open)
        yield _gauge("sentences_waiting", "Sentences that wait for a slot.", service.n_waiting)
        yield _gauge("slots", "Slots of each stage.", service.n_slots)
        used = GaugeMetricFamily("bark_jax_slots_in_use", "Slots taken.", labels=["stage"])
        used.add_metric(["semantic"], usage.n_semantic)
        used.add_metric(["coarse"], usage.n_coarse)
        yield used
        seconds = CounterMetricFamily("bark_jax_stage_seconds", "Seconds that each stage has run.", labels=["stage"])
        for stage, value in usage.seconds.items():
            seconds.add_metric([stage], value)
        yield seconds


def _gauge(name: str, help_text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"bark_jax_{name}", help_text, value=value)
