"""The two clients of swin_client behind one function, so that a test states a claim for both."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from swin_client import AsyncClient, Classification, Client, SwinError
from swin_client.images import ImageSource

Outcome = Classification | SwinError

# Classifies images one after another with one client, and returns the results.
Ask = Callable[..., list[Classification]]


def ask_blocking(url: str, *images: ImageSource, **options: Any) -> list[Classification]:
    """Classify with `Client`."""
    with Client(url, **options) as client:
        return [client.classify(image) for image in images]


def ask_asynchronously(url: str, *images: ImageSource, **options: Any) -> list[Classification]:
    """Classify with `AsyncClient`."""

    async def run() -> list[Classification]:
        async with AsyncClient(url, **options) as client:
            return [await client.classify(image) for image in images]

    return asyncio.run(run())


# Classifies images with `classify_many`, calls a function with each outcome, and returns the outcomes.
AskMany = Callable[..., list[Outcome]]


def ask_many_blocking(
    url: str, images: Iterable[ImageSource], on_outcome: Callable[[Outcome], None] = lambda _: None, **options: Any
) -> list[Outcome]:
    """Classify with `Client`. Errors are returned."""
    outcomes = list[Outcome]()
    with Client(url, timeout=options.pop("timeout", 30), max_retries=options.pop("max_retries", None)) as client:
        for outcome in client.classify_many(images, on_error="return", **options):
            on_outcome(outcome)
            outcomes.append(outcome)
    return outcomes


def ask_many_asynchronously(
    url: str, images: Iterable[ImageSource], on_outcome: Callable[[Outcome], None] = lambda _: None, **options: Any
) -> list[Outcome]:
    """Classify with `AsyncClient`. Errors are returned."""

    async def run() -> list[Outcome]:
        outcomes = list[Outcome]()
        timeout, max_retries = options.pop("timeout", 30), options.pop("max_retries", None)
        async with AsyncClient(url, timeout=timeout, max_retries=max_retries) as client:
            async for outcome in client.classify_many(images, on_error="return", **options):
                on_outcome(outcome)
                outcomes.append(outcome)
        return outcomes

    return asyncio.run(run())
