"""Errors of the server, in the form that OpenAI's API has for them."""

from types import TracebackType
from typing import Any

from starlette.responses import JSONResponse

from bark_jax.errors import BarkError, DeviceError, InputError, VoiceNotFoundError


class ApiError(BarkError):
    """A request that is answered with an error.

    Attributes:
      status: the status code of HTTP.
      kind: "type" in the body, such as "invalid_request_error".
      param: the field of the request that is wrong, or None.
      code: "code" in the body, for programs: "model_not_found"; or None.
      headers: further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.kind, self.param, self.code, self.headers = status, kind, param, code, dict(headers or {})

    def body(self) -> dict[str, Any]:
        """Returns the body of the answer."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """Returns the answer."""
        return JSONResponse(self.body(), self.status, self.headers)


def as_api_error(error: Exception) -> ApiError:
    """Returns the answer to a request that raised an error."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, InputError):
        return ApiError(400, str(error))
    if isinstance(error, TimeoutError):
        message = "the request took longer than the server allows; send a shorter text, or try again later"
        return ApiError(504, message, kind="server_error", code="timeout")
    if isinstance(error, DeviceError):
        retry = {"Retry-After": "5"}
        return ApiError(503, "the device failed; try again", kind="server_error", code="device_error", headers=retry)
    if isinstance(error, VoiceNotFoundError):  # of the names that it lists, a file that the Hub has and does not give
        retry = {"Retry-After": "30"}
        return ApiError(503, str(error), kind="server_error", param="voice", code="voice_unreachable", headers=retry)
    message = str(error) if isinstance(error, BarkError) else "an internal error; the server's log has it"
    return ApiError(500, message, kind="server_error")


def without_message(error: Exception) -> tuple[type[Exception], Exception, TracebackType | None]:
    """Returns type and traceback of an error for the log, without its message, which may quote a caller's text."""
    return RuntimeError, RuntimeError(type(error).__name__), error.__traceback__
