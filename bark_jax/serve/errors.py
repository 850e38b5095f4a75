"""Errors of the server, in the form that OpenAI's API has for them."""

from typing import Any

from starlette.responses import JSONResponse

from bark_jax.errors import BarkError


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
        self.status, self.kind, self.param, self.code, self.headers = status, kind, param, code, headers or {}

    def body(self) -> dict[str, Any]:
        """Returns the body of the answer."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """Returns the answer."""
        return JSONResponse(self.body(), self.status, self.headers)
