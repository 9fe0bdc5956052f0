"""The names of the outcomes of requests, and the limits of the service that cause some of them."""

DISCONNECTED, CLIENT_LATE, NO_RESPONSE, TIMED_OUT = "disconnected", "client was late", "no response", "timed out"
WRONG_RESPONSE = "response of another request"

# Seconds that the service waits for a header section, and for content.
REQUEST_TIMEOUT_S = 5.0

# A client that gets no response for so long has found a hang: a busy machine needs a few seconds.
HANG_SECONDS = 60

# Outcomes that are allowed for every request when there is too much work.
OVERLOAD = {"429 overloaded", "503 not_ready", "503 too_many_connections", "504 deadline_exceeded"}
OVERLOAD |= {"UNAVAILABLE", "DEADLINE_EXCEEDED"}  # of gRPC

ENGINE_FAILED = "500 engine_failed"

IMAGE_ERROR_CODES = {"unsupported_image", "unreadable_image", "image_too_large"}

BODY_LIMIT = 32 * 2**20
