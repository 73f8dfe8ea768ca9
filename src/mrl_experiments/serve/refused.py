"""What a request is answered that cannot be served: one form for all, the one that OpenAI's clients read."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from mrl_experiments.errors import UserError

INVALID, BUSY, FAULT = "invalid_request_error", "overloaded_error", "server_error"
RETRY_AFTER = "1"  # seconds, of requests that find the queue full


class Refused(Exception):
    """A request that is not served.

    Attributes:
        status: Of HTTP.
        param: The part of the request that is at fault.
        code: A word for programs.
    """

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.message, self.status, self.param, self.code = message, status, param, code


def answer(message: str, status: int, *, param: str | None = None, code: str | None = None) -> JSONResponse:
    """Return the response of a request that is refused."""
    kind = BUSY if status == 503 else INVALID if status < 500 else FAULT
    headers = {"Retry-After": RETRY_AFTER} if status == 503 else None
    error = {"message": message, "type": kind, "param": param, "code": code}
    return JSONResponse({"error": error}, status, headers)


def answer_errors(app: FastAPI) -> None:
    """Let an application answer all errors in one form."""

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        return answer(error.message, error.status, param=error.param, code=error.code)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first: dict[str, Any] = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"] if part != "body") or None
        message = str(first["msg"]).removeprefix("Value error, ")
        return answer(f"{param}: {message}" if param else message, 400, param=param)

    @app.exception_handler(UserError)
    async def unfit(request: Request, error: UserError) -> JSONResponse:
        expected = f"; expected: {error.expected}" if error.expected else ""
        return answer(error.problem + expected, 400)

    @app.exception_handler(HTTPException)
    async def of_http(request: Request, error: HTTPException) -> JSONResponse:
        response = answer(str(error.detail), error.status_code)
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> JSONResponse:
        return answer("an error of the server, which its log tells", 500)
