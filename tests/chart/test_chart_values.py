"""The chart's values: the schema, the chart's own checks, and values of the previous chart."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from dockerfiles.build import version
from frontend.package_chart import CHART
from tests.chart.rendering import NAMES, VALUES, Document, RenderError, notes, only, render, run, values_of
from tests.chart.schemas import problems

DOMAIN = "--set=ezua.domainName=apps.example.com"
OWN: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("values", NAMES)
def test_helm_lint_passes(program: str, values: str) -> None:
    done = run(program, "lint", "--strict", str(CHART), *values_of(values))
    assert done.returncode == 0, done.stdout + done.stderr
    assert not re.search(r"\[(INFO|WARNING|ERROR)\]", done.stdout), done.stdout


@pytest.mark.parametrize(
    ("values", "told"),
    [
        # Names that are not there.
        ("replicas=2", ["replicas", "not allowed"]),
        ("image.digest=x", ["image", "digest", "not allowed"]),
        ("ezua.virtualService.endpont=x", ["ezua", "virtualService", "endpont", "not allowed"]),
        ("ezua.authorizationPolicy.provider=x", ["authorizationPolicy", "provider", "not allowed"]),
        ("resources.limit.cpu=1", ["resources", "limit", "not allowed"]),
        ("autoscaling.targetCPUPercentage=1", ["autoscaling", "targetCPUPercentage", "not allowed"]),
        # Types and limits.
        ("replicaCount=two", ["replicaCount", "integer", "string"]),
        ("replicaCount=-1", ["replicaCount", "0"]),
        ("service.port=70000", ["service", "port", "65535"]),
        ("service.type=ExternalName", ["service", "type", "ClusterIP"]),
        ("image.pullPolicy=Sometimes", ["image", "pullPolicy", "IfNotPresent"]),
        ("image.repository=", ["image", "repository", "1"]),
        ("ezua.enabled=yes", ["ezua", "enabled", "boolean"]),
        ("resources.limits.memory=much", ["resources", "limits", "memory", "pattern"]),
        ("tmpSize=", ["tmpSize", "pattern"]),
        ("page.frameAncestors='self'; script-src *", ["page", "frameAncestors", "pattern"]),
        ("page.titel=x", ["page", "titel", "not allowed"]),
        ("terminationGracePeriodSeconds=10", ["terminationGracePeriodSeconds", "20"]),
        ("env[0].value=x", ["env", "0", "name"]),
        ("ingress.hosts[0].host=x", ["ingress", "hosts", "0", "paths"]),
        # null takes a default away.
        ("securityContext=null", ["securityContext", "required"]),
        ("ezua.virtualService=null", ["ezua", "virtualService", "required"]),
        ("page=null", ["page", "required"]),
        ("transformer.url=null", ["transformer", "url", "required"]),
        # What they mean.
        ("transformer.url=kserve-rag-transformer", ['transformer.url is "kserve-rag-transformer"', "http://"]),
        ("ingest.url=ftp://files", ['ingest.url is "ftp://files"', "http://"]),
        ("ezua.virtualService.endpoint=", ["ezua.virtualService.endpoint is empty", "ezua.enabled"]),
        ("ezua.virtualService.endpoint=https://rag.example.com/", ["https://rag.example.com/", "one host name"]),
        ("ezua.virtualService.endpoint=*.example.com", ['"*.example.com"', "one host name"]),
        ("ezua.virtualService.istioGateway=", ["ezua.virtualService.istioGateway", "istio-system/ezaf-gateway"]),
        ("ezua.authorizationPolicy.providerName=", ["ezua.authorizationPolicy.providerName is empty"]),
        ("ezua.authorizationPolicy.matchLabels=null", ["ezua.authorizationPolicy.matchLabels is empty"]),
        (
            "networkPolicy.enabled=true,ezua.authorizationPolicy.enabled=false,ezua.authorizationPolicy.namespace=",
            ["ezua.authorizationPolicy.namespace is empty"],
        ),
        ("ingress.enabled=true", ["ingress.hosts is empty"]),
        ("autoscaling.enabled=true,autoscaling.minReplicas=5", ["autoscaling.minReplicas is 5", "which is 4"]),
        ("autoscaling.enabled=true,resources.requests.cpu=null", ["resources.requests.cpu is not set"]),
        ("autoscaling.enabled=true,autoscaling.targetCPUUtilizationPercentage=null", ["one of them has to be set"]),
    ],
)
def test_wrong_values_are_refused(program: str, values: str, told: list[str]) -> None:
    with pytest.raises(RenderError) as caught:
        render(program, DOMAIN, f"--set={values}")
    assert [part for part in told if part not in str(caught.value)] == [], str(caught.value)


def test_all_errors_are_reported_at_once(program: str) -> None:
    with pytest.raises(RenderError) as caught:
        render(program, DOMAIN, "--set=transformer.url=x,ingest.url=y,ezua.virtualService.endpoint=")
    assert len(re.findall(r"^- ", str(caught.value), re.MULTILINE)) == 3


def _closed(schema: dict[str, Any], where: str = "") -> dict[str, set[str]]:
    """Path → names that it may have, of every object that is closed."""
    found: dict[str, set[str]] = {}
    if schema.get("additionalProperties") is False:
        found[where] = set(schema["properties"])
        for name, part in schema["properties"].items():
            found |= _closed(part, f"{where}.{name}".lstrip("."))
    return found


def test_every_value_is_in_the_schema_and_has_a_default() -> None:
    closed = _closed(SCHEMA)
    assert "ezua.authorizationPolicy" in closed
    for where, names in closed.items():
        place = OWN
        for step in filter(None, where.split(".")):
            place = place[step]
        assert names - {"global"} == set(place), where


def test_every_value_is_explained() -> None:
    text = (CHART / "README.md").read_text(encoding="utf-8")
    assert [name for name in OWN if not re.search(rf"`{name}(\.[\w.]+)?`", text)] == []


def _commands(path: Path) -> list[list[str]]:
    """Options of every `helm install` that a page shows."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.findall(
        rf"^helm install page dist/kserve-rag-frontend-{re.escape(version())}\.tgz(.*)$", text, re.MULTILINE
    )
    return [shlex.split(options) for options in found]


@pytest.mark.parametrize(
    "page", [CHART / "README.md", CHART.parents[1] / "docs" / "deploy.md"], ids=lambda path: path.name
)
def test_commands_of_the_documentation_work(program: str, page: Path) -> None:
    commands = _commands(page)
    assert commands
    for options in commands:
        documents = render(program, *options)
        assert [problem for document in documents for problem in problems(document)] == [], options


def test_the_import_of_the_documentation_works(program: str, tmp_path: Path) -> None:
    """The values that are shown for it, over the chart's own with the domain put in."""
    (shown,) = re.findall(r"```yaml\n(.*?)```", (CHART / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    values = tmp_path / "values.yaml"
    values.write_text(re.sub(r"<[^>]*>", "example", shown))
    documents = render(program, DOMAIN, f"--values={values}")
    assert [problem for document in documents for problem in problems(document)] == []
    (container,) = _deployment(documents)["spec"]["template"]["spec"]["containers"]
    assert container["env"][0] == {"name": "FRONTEND_TRANSFORMER_URL", "value": "http://kserve-rag-transformer.example"}


# The chart of the earlier graph


def _deployment(documents: list[Document]) -> Document:
    return only(documents, "Deployment")


def test_the_platform_fills_in_its_domain(program: str, tmp_path: Path) -> None:
    """Into the text of the values, before Helm reads them."""
    values = tmp_path / "values.yaml"
    values.write_text((CHART / "values.yaml").read_text().replace("${DOMAIN_NAME}", "apps.example.com"))
    assert only(render(program, f"--values={values}"), "VirtualService")["spec"]["hosts"] == [
        "kserve-rag.apps.example.com"
    ]


def test_without_the_platform_the_domain_is_a_value(program: str) -> None:
    (host,) = only(render(program, DOMAIN), "VirtualService")["spec"]["hosts"]
    assert host == "kserve-rag.apps.example.com"


@pytest.mark.parametrize("options", [[], ["--set=ezua.domainName="]])
def test_an_unfilled_placeholder_stays(program: str, options: list[str]) -> None:
    """A platform may render the chart before it fills in the domain. Istio refuses such a host."""
    (host,) = only(render(program, *options), "VirtualService")["spec"]["hosts"]
    assert host == "kserve-rag.${DOMAIN_NAME}"


def test_an_import_with_the_earlier_values_works(program: str) -> None:
    documents = render(program, *values_of("earlier-chart"), "--is-upgrade")
    (host,) = only(documents, "VirtualService")["spec"]["hosts"]
    assert host == "secure-qna.apps.example.com"
    assert only(documents, "VirtualService")["spec"]["gateways"] == ["istio-system/ezaf-gateway"]
    policy = only(documents, "AuthorizationPolicy")
    assert policy["metadata"]["namespace"] == "istio-system"
    assert policy["spec"]["provider"] == {"name": "oauth2-proxy"}
    assert policy["spec"]["selector"] == {"matchLabels": {"istio": "ingressgateway"}}
    (port,) = only(documents, "Service")["spec"]["ports"]
    assert (only(documents, "Service")["spec"]["type"], port["port"]) == ("ClusterIP", 80)
    (container,) = _deployment(documents)["spec"]["template"]["spec"]["containers"]
    assert container["ports"][0]["containerPort"] == 8080
    assert "runAsUser" not in container["securityContext"]
    assert container["resources"]["limits"] == {"cpu": "100m", "memory": "128Mi"}
    labels = _deployment(documents)["spec"]["template"]["metadata"]["labels"]
    assert labels["hpe-ezua/app"] == "page"
    assert labels["hpe-ezua/type"] == "vendor-service"


def test_a_release_of_the_earlier_chart_is_upgraded_in_place(program: str) -> None:
    """Its chart was called ai-search, with the names and selectors of `helm create`."""
    documents = render(program, *values_of("earlier-release"), "--is-upgrade", release="qna")
    assert _deployment(documents)["metadata"]["name"] == "qna-ai-search"
    assert only(documents, "Service")["metadata"]["name"] == "qna-ai-search"
    assert _deployment(documents)["spec"]["selector"] == {
        "matchLabels": {"app.kubernetes.io/name": "ai-search", "app.kubernetes.io/instance": "qna"}
    }


def test_null_removes_optional_values(program: str) -> None:
    names = ["startupProbe", "podSecurityContext", "podLabels", "resources.limits", "imagePullSecrets", "env"]
    documents = render(program, DOMAIN, *(f"--set={name}=null" for name in names))
    (container,) = _deployment(documents)["spec"]["template"]["spec"]["containers"]
    assert container["startupProbe"] is None
    assert set(container["resources"]) == {"requests"}


def test_running_as_root_is_explicit(program: str) -> None:
    documents = render(program, DOMAIN, "--set=securityContext.runAsUser=0,securityContext.runAsNonRoot=false")
    (container,) = _deployment(documents)["spec"]["template"]["spec"]["containers"]
    assert container["securityContext"]["runAsUser"] == 0
    documents = render(program, DOMAIN, "--set=podSecurityContext.runAsUser=0,podSecurityContext.fsGroup=0")
    assert _deployment(documents)["spec"]["template"]["spec"]["securityContext"] == {"fsGroup": 0}


def test_platform_labels_need_the_platform(program: str) -> None:
    documents = render(program, *values_of("without-istio"))
    assert "hpe-ezua" not in json.dumps(documents)


# Notes


@pytest.mark.parametrize(
    ("options", "told", "untold"),
    [
        ([DOMAIN], ["https://kserve-rag.apps.example.com", "ingest.url is empty"], ["DOMAIN_NAME", "root", "sign in"]),
        ([], ["${DOMAIN_NAME}", "ezua.domainName"], []),
        (values_of("earlier-chart"), ["runAsUser: 0 was left out", "limits.cpu is 100m"], ["DOMAIN_NAME", "killed"]),
        (values_of("ezua"), ["for http://kserve-rag-ingest.user-one"], ["ingest.url is empty", "killed"]),
        (values_of("without-istio"), ["https://rag.example.com"], ["port-forward", "kserve-rag.${DOMAIN_NAME}"]),
        (values_of("inside"), ["port-forward service/page-kserve-rag-frontend 8088:80"], ["https://"]),
        (values_of("custom"), ["Nobody is asked to sign in"], ["killed"]),
        ([DOMAIN, "--set=resources.limits=null"], ["https://"], ["killed", "jerks"]),
        ([DOMAIN, "--set=resources.limits.memory=64Mi"], ["limits.memory is 64Mi"], ["jerks"]),
    ],
)
def test_notes(program: str, tmp_path: Path, options: list[str], told: list[str], untold: list[str]) -> None:
    text = notes(program, *options, scratch=tmp_path)
    assert [part for part in told if part not in text] == [], text
    assert [part for part in untold if part in text] == [], text


def test_every_values_file_renders_alone() -> None:
    """Each starts with its purpose."""
    assert [path.name for path in VALUES.glob("*.yaml") if not path.read_text().startswith("# ")] == []
