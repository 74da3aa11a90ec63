"""The overlays and the chart, as kustomize and helm render them, against Kubernetes's own schemas (of
the oldest and the newest version each is for) and against each other."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path

import kubernetes_validate
import pytest

from place import NAME, PROBES, RENDERINGS, TOOLS, Document, Rendering, containers, documents, must, ours, version

# Kinds of the Prometheus operator, which test_monitoring checks.
FOREIGN = ("ServiceMonitor", "PrometheusRule")
each = pytest.mark.parametrize("rendering", RENDERINGS, ids=lambda r: r.name)


@each
def test_every_document_is_valid_for_the_oldest_and_the_newest_kubernetes(rendering: Rendering) -> None:
    checked = 0
    for document in rendering.documents:
        if document["kind"] not in FOREIGN:
            for kubernetes in (rendering.oldest, rendering.newest):
                kubernetes_validate.validate(document, kubernetes, strict=True)
                checked += 1
    assert checked >= 6


def test_a_native_sidecar_is_refused_by_what_is_older() -> None:
    """The schemas are strict: what they do not know does not pass."""
    job = copy.deepcopy(RENDERINGS[1].of_kind("Job")[0])
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, "1.27", strict=True)
    job["spec"]["template"]["spec"]["initContainers"][0]["startupProb"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, "1.37", strict=True)


@each
def test_every_pod_keeps_to_the_restricted_standard(rendering: Rendering) -> None:
    for owner, pod in rendering.pods():
        for container in containers(pod):
            security = {**pod.get("securityContext", {}), **container["securityContext"]}
            where = f"{owner}/{container['name']}"
            assert security["runAsNonRoot"] is True, where
            assert security["runAsUser"] > 0, where
            assert security["seccompProfile"] == {"type": "RuntimeDefault"}, where
            assert security["allowPrivilegeEscalation"] is False, where
            assert security["capabilities"] == {"drop": ["ALL"]}, where
            assert security["readOnlyRootFilesystem"] is True, where
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), where
            assert "memory" in container["resources"]["limits"], where
        assert ours(pod).get("securityContext", {}).get("runAsUser", pod["securityContext"]["runAsUser"]) == 65532


def labels_of_pods(rendering: Rendering) -> list[Document]:
    return [
        d["spec"]["template"]["metadata"]["labels"] for d in rendering.documents if d["kind"] in ("Deployment", "Job")
    ]


def selectors(rendering: Rendering) -> Iterator[tuple[str, Document]]:
    for document in rendering.documents:
        spec = document.get("spec", {})
        match document["kind"]:
            case "Service":
                yield f"Service {document['metadata']['name']}", spec["selector"]
            case "PodDisruptionBudget" | "Deployment":
                yield document["kind"], spec["selector"]["matchLabels"]
            case "NetworkPolicy":
                yield document["kind"], spec["podSelector"]["matchLabels"]


@each
def test_selectors_select_the_pods(rendering: Rendering) -> None:
    for where, selector in selectors(rendering):
        assert selector and any(selector.items() <= labels.items() for labels in labels_of_pods(rendering)), where


@each
def test_what_is_referred_to_exists(rendering: Rendering) -> None:
    known = {(d["kind"], d["metadata"]["name"]) for d in rendering.documents}
    for owner, pod in rendering.pods():
        assert ("ServiceAccount", pod["serviceAccountName"]) in known, owner
        container = ours(pod)
        for source in container.get("envFrom", []):
            assert ("ConfigMap", source["configMapRef"]["name"]) in known, owner
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        assert {mount["name"] for mount in container.get("volumeMounts", [])} == volumes, owner
        paths = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
        for argument in container["args"]:
            if argument.startswith("--tls-"):
                assert any(argument.partition("=")[2].startswith(path) for path in paths), argument
    for autoscaler in rendering.of_kind("HorizontalPodAutoscaler"):
        target = autoscaler["spec"]["scaleTargetRef"]
        assert (target["kind"], target["name"]) in known
        (deployment,) = rendering.of_kind("Deployment")
        assert "replicas" not in deployment["spec"], "the autoscaler owns it"


@each
def test_ports_are_those_the_proxy_listens_on(rendering: Rendering) -> None:
    for owner, pod in rendering.pods():
        container = ours(pod)
        ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
        assert set(ports.values()) <= {6379, 9090}, owner
        for kind in PROBES:
            if kind in container:
                assert ports[container[kind]["httpGet"]["port"]] == 9090, f"{owner} {kind}"
                assert {"--health-check", "--http-address=0.0.0.0"} <= set(container["args"]), owner
        for service in rendering.of_kind("Service"):
            for port in service["spec"]["ports"]:
                assert port["targetPort"] in ports, service["metadata"]["name"]


@each
def test_the_drain_ends_before_the_kubelet_ends_it(rendering: Rendering) -> None:
    for owner, pod in rendering.pods():
        delays = [a.partition("=")[2] for a in ours(pod)["args"] if a.startswith(("--min-sigterm", "--max-sigterm"))]
        assert sum(int(delay.removesuffix("s")) for delay in delays) < pod.get("terminationGracePeriodSeconds", 30), (
            owner
        )


@pytest.mark.parametrize("rendering", RENDERINGS[:2], ids=lambda r: r.name)
def test_the_sidecar_is_native_and_comes_first(rendering: Rendering) -> None:
    for owner, pod in rendering.pods():
        first = pod["initContainers"][0]
        assert (first["name"], first["restartPolicy"]) == (NAME, "Always"), owner
        assert "startupProbe" in first, "the next containers start when it succeeds"


def test_the_sidecar_comes_first_in_an_application_of_ones_own() -> None:
    """As the README shows it, before an init container that may need Redis."""
    own = TOOLS / "own"
    own.mkdir(exist_ok=True)
    kubernetes = Path("../../../deploy/kubernetes")
    parts = {
        "resources": [str(kubernetes / "base"), "app.yaml"],
        "components": [str(kubernetes / "components" / "sidecar")],
    }
    (own / "kustomization.yaml").write_text(json.dumps(parts))
    application = copy.deepcopy(RENDERINGS[0].of_kind("Deployment")[0])
    application["kind"] = "StatefulSet"
    application["spec"]["template"]["spec"]["initContainers"] = [{"name": "migrate", "image": "my-app"}]
    (own / "app.yaml").write_text(json.dumps(application))
    built = documents(must(TOOLS / "kubectl", "kustomize", own))
    (pod,) = [d["spec"]["template"]["spec"] for d in built if d["kind"] == "StatefulSet"]
    assert [container["name"] for container in pod["initContainers"]] == [NAME, "migrate"]


@each
def test_the_image_is_of_this_version(rendering: Rendering) -> None:
    for owner, pod in rendering.pods():
        image = ours(pod)["image"]
        repository, _, tag = image.rpartition(":")
        assert repository == f"us-docker.pkg.dev/my-project/my-repo/{NAME}", owner
        assert tag == ("1.0" if rendering.name == "chart/everything" else version()), owner


@pytest.mark.parametrize("rendering", RENDERINGS[3:], ids=lambda r: r.name)
def test_the_network_policy_opens_what_memorystore_needs(rendering: Rendering) -> None:
    (policy,) = rendering.of_kind("NetworkPolicy")
    open_ports = [
        (peer.get("ipBlock", {}).get("cidr"), port["port"], port.get("endPort"))
        for rule in policy["spec"]["egress"]
        for peer in rule.get("to", [{}])
        for port in rule["ports"]
    ]
    ranges = {cidr for cidr, port, end in open_ports if (port, end) == (11000, 13047)}
    assert ranges and None not in ranges
    assert {(cidr, 6379, None) for cidr in ranges} <= set(open_ports)
    assert {(None, 443, None), ("169.254.169.254/32", 80, None), ("169.254.169.252/32", 988, None)} <= set(open_ports)
    assert all(rule["from"] for rule in policy["spec"]["ingress"]), "an empty list lets everybody in"
