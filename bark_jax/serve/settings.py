"""Settings of a server: the model by name, limits, and who may ask."""

import dataclasses

from bark_jax.batch.job import Job
from bark_jax.errors import InputError, quoted
from bark_jax.generation.settings import check_count
from bark_jax.serve.voices import MAX_NPZ_CHARACTERS

# Bytes of JSON that a character of text takes at most: two escapes, "\\ud83d\\ude00". The other fields get the rest.
_BYTES_PER_CHARACTER, _OTHER_BYTES = 12, 16_384
# Names of this machine, for the `Host` header of requests to a server that listens on it alone.
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of a server. They are cheap to pickle: the model is a name.

    Attributes:
      job: the model, its default voice and settings, and the number of slots.
      api_key: the key that requests under /v1 and /metrics have to bring; None asks for none.
      hosts: names that a request's `Host` header may have, without port; None for any. The default is for a server
        that listens on this machine alone.
      cors_origins: origins of other web pages that may use the server from a browser, "https://app.example".
      max_characters: characters of a text; they bound the memory that a request takes.
      max_requests: requests that are spoken or wait for it; more are answered 429.
      timeout_s: seconds from a request's arrival to the last byte of its answer.
      logs_text: whether texts may be in the log.

    Raises:
      InputError: a limit out of range, or an empty key.
    """

    job: Job
    api_key: str | None = dataclasses.field(default=None, repr=False)
    hosts: tuple[str, ...] | None = LOOPBACK_NAMES
    cors_origins: tuple[str, ...] = ()
    max_characters: int = 4096  # OpenAI's limit
    max_requests: int = 64
    timeout_s: float = 300.0
    logs_text: bool = False

    def __post_init__(self) -> None:
        check_count("max_characters", self.max_characters)
        check_count("max_requests", self.max_requests)
        if not 0 < self.timeout_s <= 86_400:
            raise InputError(f"timeout_s is {quoted(self.timeout_s)}, expected above 0 and up to 86,400 seconds")
        # Printable ASCII, which a header carries unchanged.
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable() and self.api_key):
            raise InputError("the API key is empty or not of printable ASCII characters, which a header needs")
        for origin in self.cors_origins:
            if "://" not in origin or origin.endswith("/"):
                raise InputError(f"{quoted(origin)} is no origin, expected one such as 'https://app.example'")

    @property
    def max_body_bytes(self) -> int:
        """Bytes of a request's body."""
        return _BYTES_PER_CHARACTER * self.max_characters + MAX_NPZ_CHARACTERS + _OTHER_BYTES

    @property
    def max_open(self) -> int:
        """Requests that have no complete answer yet: also those that are spoken and only read slowly."""
        return 4 * self.max_requests
