"""The Cloud Run service against the types that Google's API client ships (run.v1, Knative's shape)."""

from __future__ import annotations

import copy
import json
from typing import Any

import jsonschema
import pytest

from place import NAME, TOOLS, Document, cloud_run_service, ours, version

API = json.loads((TOOLS / "run.v1.json").read_text())["schemas"]


def strict(schema: Any) -> Any:
    """JSON schema of a discovery document's: its references and formats, and no unknown property."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") == "any":
        return {}
    if "$ref" in schema:
        return {"$ref": f"#/$defs/{schema['$ref']}"}
    kept = {key: value for key, value in schema.items() if key in ("type", "enum", "items", "additionalProperties")}
    kept = {key: value if key in ("type", "enum") else strict(value) for key, value in kept.items()}
    if "properties" in schema:
        kept["properties"] = {name: strict(value) for name, value in schema["properties"].items()}
        kept["additionalProperties"] = False
    return kept


SCHEMA = {"$ref": "#/$defs/Service", "$defs": {name: strict(schema) for name, schema in API.items()}}


def validate(service: Document) -> None:
    jsonschema.validate(service, SCHEMA, cls=jsonschema.Draft202012Validator)


def test_the_service_has_cloud_runs_shape() -> None:
    validate(cloud_run_service())


@pytest.mark.parametrize(
    "path", [["spec", "template", "spec"], ["spec", "template", "spec", "containers", 1, "startupProbe"]]
)
def test_an_unknown_key_is_refused(path: list[str | int]) -> None:
    service = copy.deepcopy(cloud_run_service())
    place: Any = service
    for step in path:
        place = place[step]
    place["restartPolicy"] = "Always"
    with pytest.raises(jsonschema.ValidationError):
        validate(service)


def test_annotations_are_those_that_cloud_run_takes() -> None:
    documented = API["ObjectMeta"]["properties"]["annotations"]["description"]
    service = cloud_run_service()
    for kind, meta in (("Service", service["metadata"]), ("Revision", service["spec"]["template"]["metadata"])):
        for name in meta["annotations"]:
            places = documented.split(f"* `{name}`: ")[1].split(".")[0]
            assert kind in places.split(", "), f"{name} belongs to {places}"


def test_the_program_waits_for_the_proxy() -> None:
    template = cloud_run_service()["spec"]["template"]
    names = {container["name"] for container in template["spec"]["containers"]}
    dependencies = json.loads(template["metadata"]["annotations"]["run.googleapis.com/container-dependencies"])
    assert dependencies == {"app": [NAME]} and names == {"app", NAME}
    json.loads(template["metadata"]["annotations"]["run.googleapis.com/network-interfaces"])
    proxy = ours(template["spec"])
    assert proxy["startupProbe"]["httpGet"]["port"] == 9090
    assert "ports" not in proxy, "only the container that takes requests has one"
    assert proxy["image"].endswith(f":{version()}")
