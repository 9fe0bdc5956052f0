"""Tests of `POST /preprocess`, `GET /model` and the golden samples: what the page shows of a model."""

import io
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from app.bundle.load import Bundle
from app.images.preprocess import decode_pixels
from app.main import create_app
from app.settings import Settings
from tests.http.test_service import digit
from tests.references.draw import draw_picture
from tests.support.images import encode
from tests.support.served import Served


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    """A client of a service with the demo bundle."""
    with TestClient(create_app(Settings(device="cpu", threads=1))) as client:
        yield client


@pytest.mark.parametrize("size", [(8, 8), (640, 480), (31, 200)])
def test_the_picture_has_the_pixels_of_the_network(client: TestClient, demo: Bundle, size: tuple[int, int]) -> None:
    """The PNG has exactly the pixels that `/classify` computes for the same image."""
    image = encode(draw_picture(*size))
    answer = client.post("/preprocess", content=image)

    assert answer.headers["content-type"] == "image/png"
    pixels = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert np.array_equal(pixels, decode_pixels(image, demo.manifest.preprocessing))


def test_the_region_is_the_whole_image_without_a_crop(client: TestClient, demo: Bundle) -> None:
    """The demonstration squashes the whole image."""
    assert client.post("/preprocess", content=digit(demo, "two")).headers["x-image-region"] == "0,0,1,1"


def test_a_form_is_the_same_request(client: TestClient, demo: Bundle) -> None:
    """An image as the body and in the field `file` of a form have the same picture."""
    image = digit(demo, "two")

    assert (
        client.post("/preprocess", files={"file": image}).content == client.post("/preprocess", content=image).content
    )


@pytest.mark.parametrize(
    ("content", "query", "status", "code"),
    [
        (b"text", "", 415, "unsupported_image"),
        (encode(Image.new("L", (9, 9)))[:-30], "", 422, "unreadable_image"),
        (b"", "", 422, "unreadable_image"),
        (encode(Image.new("L", (9, 9))), "?top_k=1", 422, "invalid_parameter"),
    ],
)
def test_errors_are_those_of_classification(
    client: TestClient, content: bytes, query: str, status: int, code: str
) -> None:
    """Bytes that are no image, damaged images and unknown parameters get problem documents."""
    answer = client.post(f"/preprocess{query}", content=content)

    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_an_unknown_parameter_is_explained(client: TestClient) -> None:
    """The message names the parameter."""
    detail = client.post("/preprocess?step=2", content=b"x").json()["detail"]

    assert detail == "There is no parameter 'step'; leave it out, because the route has none."


def test_the_model_has_the_answers_of_its_golden_samples(client: TestClient, demo: Bundle) -> None:
    """The best class and its score for each golden sample are those that the service computes."""
    golden = client.get("/model").json()["golden"]
    images = {sample["file"]: client.get(f"/model/{sample['file']}") for sample in golden}
    computed = [
        client.post("/classify?top_k=1", content=image.content).json()["predictions"] for image in images.values()
    ]

    assert {file: image.content for file, image in images.items()} == demo.golden_images
    assert {image.headers["content-type"] for image in images.values()} == {"image/png"}
    assert [row["label"] for row in golden] == [prediction["label"] for ((prediction),) in computed]
    assert np.allclose([row["score"] for row in golden], [row[0]["score"] for row in computed], atol=1e-4)


@pytest.mark.parametrize("file", ["logits.npy", "unknown.png", "..%2fmanifest.json"])
def test_only_golden_samples_can_be_read(client: TestClient, file: str) -> None:
    """No other file of the bundle is served."""
    assert client.get(f"/model/golden/{file}").status_code == 404


def test_the_model_has_the_limits_of_images(client: TestClient) -> None:
    """The limits are those of the settings."""
    limits = client.get("/model").json()["limits"]

    assert (limits["body_bytes"], limits["megapixels"], limits["top_k"]) == (32 * 2**20, 64, 5)
    assert "jpeg" in limits["formats"]


def test_the_report_is_a_part_of_the_model(client: TestClient) -> None:
    """`/model/report` has the parts of `/model` that change, and no labels, which can be megabytes."""
    report, model = client.get("/model/report").json(), client.get("/model").json()

    assert report.keys() == {"engines", "utilization", "bottleneck"} < model.keys()
    assert report["engines"] == model["engines"]


def test_http_workers_serve_the_page_and_what_it_shows(served: Served, demo: Bundle) -> None:
    """In one process and with HTTP workers, the page, the golden samples and the network's input are served."""
    image = digit(demo, "seven")
    sample = httpx.get(f"{served.url}/model/golden/seven.png")
    answers = [httpx.get(f"{served.url}/"), sample, httpx.post(f"{served.url}/preprocess", content=image)]

    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert sample.content == image
    assert httpx.get(f"{served.url}/model").json()["golden"][7]["label"] == "seven"
