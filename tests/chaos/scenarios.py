"""The scenarios of the chaos test: their shares, and the outcomes that are allowed.

In about half of all scenarios, clients behave well. In the others they disconnect, stall, or send
what is no image or no HTTP. A scenario is a function that runs it once and returns its outcome:
the name of the response (`200`, `429 overloaded`), `disconnected`, or `response of another
request`. It raises `Broken` if there was no response.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from app.load.client_pool import Broken
from tests.chaos import classify_scenarios as classify
from tests.chaos import infer_scenarios as infer
from tests.chaos import rpc_scenarios as rpc
from tests.chaos.client_pool import ClientPool
from tests.chaos.outcomes import CLIENT_LATE, DISCONNECTED, HANG_SECONDS, NO_RESPONSE, TIMED_OUT
from tests.chaos.rpc_pool import GRPC_TOO_LONG, LATE, MESSAGE_TIMEOUT
from tests.chaos.rpc_pool import OK as CALLED


@dataclass(frozen=True)
class Scenario:
    """A scenario: its share in percent, its function, and its allowed outcomes.

    `OVERLOAD` and `ENGINE_FAILED` are allowed for every scenario.
    """

    name: str
    weight: float
    run: Callable[[ClientPool], Awaitable[str]]
    allowed: frozenset[str]

    async def __call__(self, clients: ClientPool) -> str:
        """Run the scenario once, and return its outcome."""
        try:
            async with asyncio.timeout(HANG_SECONDS):
                return await self.run(clients)
        except (Broken, ConnectionError):
            return NO_RESPONSE
        except TimeoutError:
            return TIMED_OUT


def _allowed(*outcomes: str) -> frozenset[str]:
    return frozenset(outcomes)


def _infer(scenario: Callable[..., Awaitable[str]]) -> Callable[[ClientPool], Awaitable[str]]:
    """Return a scenario of `/classify` with requests to infer."""
    return partial(scenario, build=infer.infer_request)


async def _infer_oversized(clients: ClientPool) -> str:
    return await classify.oversized_body(clients, "/v2/models/digits/infer")


OK = _allowed("200")
REFUSALS = _allowed("408 request_timeout", "413 image_too_large", "415 unsupported_image", "422 unreadable_image")
PROTOCOL_ERRORS = _allowed(
    "400 malformed_request", "431 headers_too_large", "501 not_supported", "505 wrong_version", NO_RESPONSE
)

CALL_OK, INVALID = _allowed(CALLED), _allowed("INVALID_ARGUMENT")

DIGIT = Scenario("digit", 30, classify.digit, OK)
BATCH = Scenario("batch, valid and invalid", 4, classify.batch, OK)

# Scenarios of clients that behave well and never wait on purpose.
WELL_BEHAVED = [
    DIGIT,
    Scenario("photo", 8, classify.photo, OK),
    Scenario("in a form", 4, classify.in_a_form, OK),
    Scenario("own connection", 6, classify.own_connection, OK),
    Scenario("evidence", 4, classify.evidence, OK),
    Scenario("evidence as a picture", 1, classify.picture, OK),
    BATCH,
    Scenario("short deadline", 4, classify.short_deadline, OK),
    Scenario("pipelined", 3, classify.pipelined, OK),
    Scenario("chunked", 3, classify.chunked, OK),
    Scenario("100-continue", 2, classify.expect_continue, OK),
    Scenario("infer", 12, infer.digit, OK),
    Scenario("infer: photo", 3, infer.photo, OK),
    Scenario("infer: several images", 3, infer.batch, OK),
    Scenario("infer: short deadline", 2, infer.short_deadline, OK),
    Scenario("call", 12, rpc.digit, CALL_OK),
    Scenario("call: photo", 3, rpc.photo, CALL_OK),
    Scenario("call: several images", 3, rpc.batch, CALL_OK),
    Scenario("call: own channel", 2, rpc.own_channel, CALL_OK),
    Scenario("call: short deadline", 2, rpc.short_deadline, CALL_OK | {LATE}),
    Scenario("health, metrics, model", 4, classify.other_paths, OK | {"404 not_found", "503"}),
]

SCENARIOS = [
    *WELL_BEHAVED,
    Scenario("disconnect while sending", 4, classify.disconnect_while_sending, _allowed(DISCONNECTED)),
    Scenario("disconnect while waiting", 6, classify.disconnect_while_waiting, _allowed(DISCONNECTED)),
    Scenario("disconnect with batch", 1, classify.disconnect_with_batch, _allowed(DISCONNECTED)),
    Scenario("half-close", 2, classify.half_close, OK | {NO_RESPONSE}),
    Scenario("slow body", 2, classify.slow_body, OK | {CLIENT_LATE}),
    Scenario("stalled request", 1, classify.stalled_request, _allowed("408 request_timeout")),
    Scenario("slow reader", 0.7, classify.slow_reader, OK),
    Scenario("bad file", 8, classify.bad_file, OK | REFUSALS),
    Scenario("bad form", 2, classify.bad_form, _allowed("422 invalid_parameter")),
    Scenario("invalid parameter", 1, classify.invalid_parameter, _allowed("422 invalid_parameter")),
    Scenario("oversized body", 0.7, classify.oversized_body, REFUSALS | {NO_RESPONSE}),
    Scenario("short Content-Length", 1, classify.short_content_length, REFUSALS | PROTOCOL_ERRORS),
    Scenario(
        "malformed HTTP", 2, classify.malformed_http, REFUSALS | PROTOCOL_ERRORS | {"404 not_found", DISCONNECTED}
    ),
    Scenario("infer: disconnect while sending", 2, _infer(classify.disconnect_while_sending), _allowed(DISCONNECTED)),
    Scenario("infer: disconnect while waiting", 3, _infer(classify.disconnect_while_waiting), _allowed(DISCONNECTED)),
    Scenario("infer: half-close", 1, _infer(classify.half_close), OK | {NO_RESPONSE}),
    Scenario("infer: slow body", 1, _infer(classify.slow_body), OK | {CLIENT_LATE}),
    Scenario("infer: stalled request", 0.5, _infer(classify.stalled_request), _allowed("408 request_timeout")),
    Scenario("infer: bad file", 3, infer.bad_file, REFUSALS),
    Scenario("infer: bad body", 3, infer.bad_body, _allowed("400 invalid_body")),
    Scenario("infer: wrong model", 1, infer.wrong_model, _allowed("404 unknown_model")),
    Scenario("infer: oversized body", 0.3, _infer_oversized, REFUSALS | {NO_RESPONSE}),
    Scenario("infer: compressed bomb", 0.3, infer.compressed_bomb, REFUSALS),
    Scenario("call: cancel while waiting", 3, rpc.cancel_while_waiting, _allowed(DISCONNECTED)),
    Scenario("call: cancel beside others", 2, rpc.cancel_beside, CALL_OK),
    Scenario("call: cancel before message", 1, rpc.cancel_before_message, _allowed(DISCONNECTED)),
    Scenario("call: disconnect in message", 2, rpc.disconnect_in_message, _allowed(DISCONNECTED)),
    Scenario("call: disconnect while waiting", 2, rpc.disconnect_while_waiting, _allowed(DISCONNECTED)),
    Scenario("call: slow message", 1, rpc.slow_message, CALL_OK | {CLIENT_LATE}),
    Scenario("call: stalled message", 0.3, rpc.stalled_message, _allowed(MESSAGE_TIMEOUT)),
    Scenario("call: no message", 0.5, rpc.no_message, INVALID),
    Scenario("call: bad file", 3, rpc.bad_file, INVALID | {"RESOURCE_EXHAUSTED"}),
    Scenario("call: bad message", 3, rpc.bad_message, INVALID),
    Scenario("call: wrong model", 1, rpc.wrong_model, _allowed("NOT_FOUND")),
    Scenario("call: oversized message", 0.2, rpc.oversized_message, _allowed(GRPC_TOO_LONG)),
    Scenario("call: damaged connection", 1, rpc.damaged_connection, CALL_OK | INVALID | {NO_RESPONSE, "NOT_FOUND"}),
    Scenario("call: malformed HTTP", 1, rpc.malformed_http, _allowed(DISCONNECTED)),
]
