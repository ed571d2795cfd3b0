"""HTTP client of one server: concurrency, retries, deadlines, typed failures."""

from __future__ import annotations

import asyncio
import random
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from parity_check import interrupts
from parity_check.config.engines import EndpointConfig
from parity_check.engines.replies import Answer, UnusableError, typed
from parity_check.errors import EngineError
from parity_check.files import cannot_write

if TYPE_CHECKING:
    import httpx

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 8.0
CONNECT_TIMEOUT_S = 10.0
LONGEST_MESSAGE = 300
LONGEST_ANSWER = 1 << 28
"""Bytes of a response after decompression; a sample of 100,000 tokens takes a third of it."""
TOO_MANY_REQUESTS = 429
NOT_FOUND = 404
KEY_REJECTED = (401, 403)


@dataclass(frozen=True, slots=True)
class Call:
    """One request. A path with a leading slash is relative to the root, not to the base URL."""

    path: str
    body: Mapping[str, Any] | None = None
    name: str = ""
    """The subject for messages, e.g. a sample id."""
    optional: bool = False
    """Whether a missing path is allowed; the response is then None."""


class RetryableError(Exception):
    """A failure that another attempt may avoid."""

    def __init__(self, message: str, kind: str, after_s: float | None = None) -> None:
        super().__init__(message)
        self.kind, self.after_s = kind, after_s


class Server:
    """Sends calls and passes on the responses. `end` may be called from any thread.

    The key is only in the request header. Everything a server returns goes through `_clean` before
    it is shown or logged.
    """

    def __init__(self, role: str, config: EndpointConfig, key: str | None, log: Path) -> None:
        self._role, self._config, self._key, self._log = role, config, key, log
        self._lock, self._ended = threading.Lock(), False
        self._trust: ssl.SSLContext | None = None
        self._running: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None
        self.note(f"{config.base_url}, model {config.model}")

    def send(self, operation: str, calls: Sequence[Call], take: Callable[[int, Any], None]) -> None:
        """Send all calls; `take` gets the number and response of each, in the order of completion.

        A response is parsed JSON if its content type is JSON, else text. The first failure cancels
        the others. Raises EngineError.
        """
        started = time.monotonic()
        with ThreadPoolExecutor(max_workers=1) as thread:
            sending = thread.submit(lambda: asyncio.run(self._until_ended(operation, calls, take)))
            try:
                while not wait([sending], interrupts.POLL_S).done:
                    interrupts.check()
            except BaseException:
                self.end()
                raise
        try:
            sending.result()
        except asyncio.CancelledError:
            raise self.error(f"was stopped during {operation}", kind="crashed") from None
        seconds = time.monotonic() - started
        self.note(f"{operation}: {len(calls)} requests in {seconds:.2f} s")

    def ask(self, operation: str, call: Call) -> Any:
        """The response to one call."""
        answers: list[Any] = []
        self.send(operation, [call], lambda _, answer: answers.append(answer))
        return answers[0]

    def end(self) -> None:
        """Cancel running calls and reject later ones."""
        with self._lock:
            self._ended = True
            if self._running is not None:
                loop, task = self._running
                loop.call_soon_threadsafe(task.cancel)

    def note(self, text: str) -> None:
        """Write a line to the log."""
        try:
            with self._log.open("a", encoding="utf-8") as log:
                log.write(f"{time.strftime('%H:%M:%S')} {self._clean(text)}\n")
        except OSError as error:
            raise cannot_write(self._log, error) from None

    def error(self, what: str, *, kind: str, hint: str | None = None) -> EngineError:
        url = self._config.base_url
        message = self._clean(f"the {self._role} engine (endpoint {url}) {what}")
        return EngineError(message, kind=kind, hint=hint, log=self._log)

    def read(self, operation: str, about: str, kind: type[Answer], answer: Any) -> Answer:
        """A response as a typed value. Raises EngineError."""
        try:
            return typed(kind, answer)
        except UnusableError as error:
            raise self.bad_answer(operation, about, error) from None

    def bad_answer(self, operation: str, about: str, why: Exception) -> EngineError:
        what = f"returned an invalid response during {operation}, {about}: {why}"
        return self.error(what, kind="bad_answer")

    # --- sending ------------------------------------------------------------------------------

    async def _until_ended(
        self, operation: str, calls: Sequence[Call], take: Callable[[int, Any], None]
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        with self._lock:
            if self._ended:
                raise asyncio.CancelledError
            self._running = (asyncio.get_running_loop(), task)
        try:
            await self._send(operation, calls, take)
        finally:
            with self._lock:
                self._running = None

    async def _send(
        self, operation: str, calls: Sequence[Call], take: Callable[[int, Any], None]
    ) -> None:
        import httpx

        if self._trust is None:  # loading the certificates takes longer than a request
            self._trust = httpx.create_ssl_context()
        slots = asyncio.Semaphore(self._config.concurrency)
        headers = {} if self._key is None else {"Authorization": f"Bearer {self._key}"}
        async with httpx.AsyncClient(
            headers=headers,
            verify=self._trust,
            # The deadline of a whole response is in `_attempt`.
            timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),
            limits=httpx.Limits(max_connections=self._config.concurrency),
        ) as client:

            async def one(number: int, call: Call) -> None:
                async with slots:
                    answer = await self._with_retries(client, operation, call)
                take(number, answer)

            tasks = [asyncio.create_task(one(*numbered)) for numbered in enumerate(calls)]
            try:
                await asyncio.gather(*tasks)
            finally:
                for each in tasks:
                    each.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _with_retries(self, client: httpx.AsyncClient, operation: str, call: Call) -> Any:
        attempts = self._config.retries + 1
        for attempt in range(attempts):
            try:
                return await self._attempt(client, operation, call)
            except RetryableError as error:
                self.note(f"{operation} {call.name}: attempt {attempt + 1}: {error}")
                if attempt + 1 == attempts:
                    tries = "" if attempts == 1 else f", {attempts} times in a row"
                    raise self.error(
                        f"{error} during {operation}{tries}",
                        kind=error.kind,
                        hint="is the server still running? Check its log",
                    ) from None
                await asyncio.sleep(_pause(attempt, error.after_s))
        raise AssertionError("unreachable")

    async def _attempt(self, client: httpx.AsyncClient, operation: str, call: Call) -> Any:
        import httpx

        url = _address(self._config.base_url, call.path)
        method = "GET" if call.body is None else "POST"
        deadline = self._config.timeout_s
        try:
            async with (
                asyncio.timeout(deadline),
                client.stream(method, url, json=call.body) as response,
            ):
                content = await _content(response)
        except TimeoutError:
            self.note(f"{operation} {call.name}: no response within {deadline:g} s")
            raise self.error(
                f"did not respond within {deadline:g} s during {operation}",
                kind="hung",
                hint=f"raise {self._role}.endpoint.timeout_s, or lower its `concurrency`",
            ) from None
        except httpx.TransportError as error:
            if _is_certificate_error(error):
                raise self.error(
                    f"has a certificate that cannot be verified: {error}",
                    kind="unreachable",
                    hint="set the certificate authority: SSL_CERT_FILE=/path/to/ca.pem",
                ) from None
            raise RetryableError(*_broken(error)) from None
        except httpx.InvalidURL as error:
            raise self.error(f"has an invalid URL: {error}", kind="refused") from None
        except (httpx.DecodingError, UnusableError) as error:
            raise self.bad_answer(operation, call.name or call.path, error) from None
        return self._answer(operation, call, response, content)

    def _answer(self, operation: str, call: Call, response: httpx.Response, content: bytes) -> Any:
        status, reason = response.status_code, _reason(response, content)
        if status == TOO_MANY_REQUESTS or status >= 500:
            after = response.headers.get("retry-after", "")
            raise RetryableError(
                f"answered {status} ({reason})",
                "server_error",
                float(after) if after.isdigit() else None,
            )
        if status in KEY_REJECTED:
            raise self.error(
                f"answered {status} ({reason}) during {operation}",
                kind="refused",
                hint=f"set the variable with the key: {self._role}.endpoint.api_key_env",
            )
        if call.optional and status in (NOT_FOUND, 405):
            return None
        if status != 200:
            about = f" for {call.name}" if call.name else ""
            raise self.error(
                f"answered {status} during {operation}{about}: {reason}", kind="refused"
            )
        if call.optional and "json" not in response.headers.get("content-type", ""):
            return content.decode(errors="replace")
        try:
            found = from_json(content)
        except ValueError as error:
            raise self.error(
                f"returned an invalid response during {operation}: {len(content)} bytes that are "
                f"not JSON ({error})",
                kind="truncated",
            ) from None
        if found is None:
            raise self.bad_answer(operation, call.name or call.path, UnusableError("it is null"))
        return found

    def _clean(self, text: str) -> str:
        """The text without the key: a server may quote a rejected request."""
        return text.replace(self._key, "***") if self._key else text


def _address(base: str, path: str) -> str:
    """Paths with a leading slash are vLLM's own, outside OpenAI's API."""
    return base.removesuffix("/v1") + path if path.startswith("/") else f"{base}/{path}"


def _pause(attempt: int, after_s: float | None) -> float:
    """Exponential backoff with jitter."""
    wanted = FIRST_PAUSE_S * 2**attempt if after_s is None else after_s
    return min(wanted, LONGEST_PAUSE_S) * random.uniform(0.75, 1.0)


def _broken(error: httpx.TransportError) -> tuple[str, str]:
    import httpx

    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return f"cannot be reached ({reason})", "unreachable"
    return f"closed the connection ({reason})", "truncated"


def _is_certificate_error(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


async def _content(response: httpx.Response) -> bytes:
    """The whole response. Raises UnusableError if it is too long."""
    content = bytearray()
    async for received in response.aiter_bytes():
        content += received
        if len(content) > LONGEST_ANSWER:
            raise UnusableError(f"it is longer than {LONGEST_ANSWER:,} bytes")
    return bytes(content)


def _reason(response: httpx.Response, content: bytes) -> str:
    """The server's error message as one line."""
    text = content.decode(errors="replace")
    with suppress(ValueError, AttributeError):
        found = from_json(content)
        found = found.get("error", found)
        text = str(found.get("message", found) if isinstance(found, dict) else found)
    line = " ".join(text.split()) or response.reason_phrase
    return line if len(line) <= LONGEST_MESSAGE else line[: LONGEST_MESSAGE - 1] + "…"
