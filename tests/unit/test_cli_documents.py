"""Documents: what a file may say, what it may not, and what `keyfold get` prints."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import keyfold
from cli_runner import Cli
from keyfold_server.domain.geos import Geos
from keyfold_server.domain.residency import ResidencyPolicy
from served import Served, served

_NUMBERS: Final = itertools.count(1)


def arn(region: str, name: str = "one") -> str:
    """Returns the uri of a multi-Region key's replica in a region."""
    return f"arn:aws:kms:{region}:111122223333:key/mrk-{name}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with the cluster prod, geos, and multi-Region keys."""
    regions = ResidencyPolicy(geos=Geos({"EU": ("eu-1", "eu-2")}))
    with served(tmp_path_factory.mktemp("server"), regions=regions) as running:
        for region in ("eu-1", "eu-2"):
            running.make_key(arn(region))
        yield running


@pytest.fixture(scope="module")
def cli(server: Served) -> Cli:
    """The command, set up to call that server."""
    return Cli(server.target)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a", "line 1: must have fields, and is the text 'a'"),
        ("- x", "line 1: must have fields, and is a list"),
        ("organisations: []", "organisations: unknown field; did you mean organizations?"),
        ("secrets: []", "unknown field; the fields are organizations, key_links, clusters"),
        ("clusters:", "line 1: clusters: must be a list, not empty"),
        ("clusters: {a: b}", "clusters: must be a list, not fields"),
        ("clusters: [a]", "clusters[0]: must have fields, and is the text 'a'"),
        ("clusters: [{}]", "clusters[0]: has no cluster"),
        ("clusters: [{cluster: [a]}]", "clusters[0].cluster: must be text, not a list"),
        ("clusters: [{cluster: ~}]", "clusters[0].cluster: has no value; leave the field out"),
        (
            "clusters:\n- cluster: a\n  region_spec: []",
            "line 3: clusters[0].region_spec: unknown field; did you mean region_specs?",
        ),
        (
            "clusters:\n- cluster: a\n  regionSpecs: []",
            "line 3: clusters[0].regionSpecs: unknown field; did you mean region_specs?",
        ),
        (
            "clusters:\n- cluster: a\n  request_id: b",
            "line 3: clusters[0].request_id: the server sets it; leave it out",
        ),
        (
            "clusters:\n- cluster: a\n  region_specs:\n  - region: eu\n    key_spec: {typ: A}",
            "line 5: clusters[0].region_specs[0].key_spec.typ: unknown field; did you mean type?",
        ),
        (
            "clusters:\n- cluster: a\n  region_specs:\n  - region: eu\n    policy: 60s",
            "line 5: clusters[0].region_specs[0].policy: must have fields, and is the text '60s'",
        ),
        (
            "clusters: [{cluster: a, region_specs: [{region: eu, policy: {cache_ttl: soon}}]}]",
            "policy.cache_ttl: 'soon' is not a duration such as 60s, 15m or 1h",
        ),
        (
            "clusters: [{cluster: a, region_specs: [{region: eu, policy: {auto_rotate: yes}}]}]",
            "policy.auto_rotate: must be true or false, not 'yes'",
        ),
        (
            "clusters: [{cluster: a, region_specs: [{key_link: x}]}]",
            "region_specs[0]: needs a region or a geo, and not both",
        ),
        (
            "clusters: [{cluster: a, region_specs: [{region: eu, key_link: x, replica_of: us}]}]",
            "region_specs[0]: has replica_of and key_link; give one of them",
        ),
        (
            "clusters: [{cluster: a, region_specs: [{region: eu}, {region: eu}]}]",
            "region_specs[1]: eu stands there twice",
        ),
        ("clusters: [{cluster: a, regions: [x, x]}]", "regions: x stands there twice"),
        (
            "clusters: [{cluster: a, regions: [x], region_specs: [{region: eu}]}]",
            "region_specs[0]: eu is not among the cluster's regions",
        ),
        (
            "clusters:\n- cluster: a\n---\nclusters:\n- cluster: a\n",
            "line 5: cluster a stands there twice, first on line 2",
        ),
        (
            "organizations:\n- organization: a\n- {organization: a}",
            "line 3: organization a stands there twice, first on line 2",
        ),
        ("organizations: [{organization: a, etag: b}]", "etag: the server sets it; leave it out"),
        (
            "organizations: [{organization: a, max_clusters: -1}]",
            "max_clusters: must be a number from 0 to 4294967295, not '-1'",
        ),
        ("organizations: [{organization: a, max_clusters: 4294967296}]", "must be a number from"),
        (
            "organizations: [{organization: a, default_key: MINE}]",
            "default_key: must be one of REQUIRE_OWN, LINKED, PLATFORM, not 'MINE'",
        ),
        (
            "organizations: [{organization: a, cluster_patterns: a-*}]",
            "cluster_patterns: must be a list, not the text 'a-*'",
        ),
        ("key_links: [{organization: a}]", "key_links[0]: has no key_link"),
        ("key_links: [{organization: a, key_link: b}]", "needs a region or a geo, and not both"),
        (
            "key_links: [{organization: a, key_link: b, region: eu, key_spec: {options: []}}]",
            "key_spec.options: must have fields, and is a list",
        ),
        (
            "key_links:\n- &a {organization: a, key_link: b, region: eu}\n",
            "line 2: anchors (&a) are not supported",
        ),
        (
            """key_links:
- {organization: a, key_link: b, region: eu, key_spec: {type: LOCAL, uri: a}}
- {organization: a, key_link: c, region: eu, key_spec: {type: LOCAL, uri: b}}
""",
            "line 3: a has a LOCAL link for eu already, on line 2",
        ),
        ("", "stdin: is empty"),
        ("{", "is not YAML"),
    ],
)
def test_wrong_files(cli: Cli, server: Served, text: str, problem: str) -> None:
    """What is wrong is told with its line and path, and the server is not even asked."""
    calls = {name: len(each) for name, each in server.requests.items()}
    ran = cli("apply", "-f", "-", stdin=text)
    assert ran.code == 2
    assert ran.err.startswith("error: stdin: ")
    assert problem in ran.err
    assert {name: len(each) for name, each in server.requests.items()} == calls


@pytest.mark.parametrize(
    ("text", "code", "problem"),
    [
        (
            "clusters: [{cluster: prod, organization: beta, region_specs: []}]",
            2,
            "stdin: line 1: cluster prod does not belong to organization beta",
        ),
        ("clusters: [{cluster: a b, region_specs: [{region: eu}]}]", 2, "INVALID_NAME"),
        ("organizations: [{organization: 'a/b'}]", 2, "INVALID_NAME"),
        (
            "key_links: [{organization: acme, key_link: kept, region: us}]",
            2,
            "key link kept of acme is for eu, which never changes",
        ),
        (
            "key_links: [{organization: acme, key_link: new, region: us}]",
            2,
            "key link new does not exist and has no key_spec",
        ),
        (
            "clusters: [{cluster: a, region_specs: [{region: eu, policy: {cache_ttl: 9d}}]}]",
            2,
            "cluster/a: ",
        ),
        (
            "clusters: [{cluster: a, region_specs: [{geo: XX, key_spec: {type: LOCAL, uri: b}}]}]",
            2,
            "UNKNOWN_GEO",
        ),
    ],
)
def test_files_that_contradict_what_exists(cli: Cli, text: str, code: int, problem: str) -> None:
    """What only the server knows is refused before anything is changed."""
    kept = ("--region", "eu", "--type", "LOCAL", "--uri", "local:b")
    cli("links", "create", "acme", "kept", *kept)
    ran = cli("apply", "-f", "-", stdin=text)
    assert ran.code == code
    assert problem in ran.err
    assert ran.out == b""


def test_the_file_itself(cli: Cli, tmp_path: Path) -> None:
    """A file is named in errors; one that cannot be read says so."""
    ran = cli("apply", "-f", str(tmp_path / "none.yaml"))
    assert ran.code == 2
    assert "cannot read" in ran.err
    (tmp_path / "wrong.yaml").write_text("clusters:\n- clster: a\n")
    ran = cli("apply", "-f", str(tmp_path / "wrong.yaml"))
    assert "wrong.yaml: line 2: clusters[0].clster: unknown field; did you mean cluster?" in ran.err
    assert cli("apply").code == 2


# --- get ---


def test_get_prints_what_apply_takes(cli: Cli, server: Served) -> None:
    """Each kind by name, all of a kind, whole organizations, and everything."""
    made = ("--display-name", "Müller: *1", "--max-clusters", "5")
    assert cli("organizations", "create", "made", *made).code == 0
    link = ("--region", "no", "--type", "LOCAL", "--uri", "local:a")
    cli("links", "create", "made", "main", *link)
    cli("enable", "a1", "--organization", "made", "--region", "no", "--key-link", "main")
    cli("enable", "geo", "--geo", f"EU=AWS_KMS,{arn('eu-1')}", "--cache-ttl", "1500ms")
    for arguments in (
        ("organization", "made"),
        ("link", "made/main"),
        ("cluster", "a1", "geo", "prod"),
        ("all", "made"),
        ("organization",),
        ("link",),
        ("cluster",),
        ("all",),
    ):
        printed = cli("get", *arguments)
        assert printed.code == 0
        ran = cli("apply", "-f", "-", "--plan", stdin=printed.out)
        assert (ran.code, ran.err) == (0, ""), arguments
    printed = cli("get", "all", "-o", "json")
    assert cli("apply", "-f", "-", "--plan", stdin=printed.out).code == 0
    shown = cli("get", "all", "made").out.decode()
    assert "display_name: 'Müller: *1'" in shown
    assert "region: 'no'" in shown
    cluster = json.loads(cli("get", "cluster", "geo", "--json").out)["clusters"][0]
    assert cluster["region_specs"] == [
        {
            "region": "eu-1",
            "key_spec": {"type": "AWS_KMS", "uri": arn("eu-1")},
            "policy": {"cache_ttl": "1.5s", "auto_rotate": False},
        },
        {
            "region": "eu-2",
            "replica_of": "eu-1",
            "policy": {"cache_ttl": "1.5s", "auto_rotate": False},
        },
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (("keys",), 2, "'keys' is not one of organization, link, cluster, all"),
        (("link", "acme"), 2, "'acme' is not ORGANIZATION/NAME"),
        (("all", "-o", "xml"), 2, "--output: 'xml' is not yaml, json, table, wide or name"),
        (("cluster", "prod", "none"), 3, "CLUSTER_NOT_FOUND"),
        (("organization", "none"), 3, "ORGANIZATION_NOT_FOUND"),
        (("link", "acme/none"), 3, "KEY_LINK_NOT_FOUND"),
        (("all", "none"), 3, "ORGANIZATION_NOT_FOUND"),
    ],
)
def test_get_of_what_is_not_there(
    cli: Cli, arguments: tuple[str, ...], code: int, problem: str
) -> None:
    """A wrong kind or name is an error, and prints no half of a document."""
    ran = cli("get", *arguments)
    assert (ran.code, ran.out) == (code, b"")
    assert problem in ran.err


_NAMES: Final = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
_KEYS: Final = st.sampled_from(["local:a", "local:b", "local:eu", "local:us"]).map(
    lambda uri: {"type": "LOCAL", "uri": uri}
)
_SPANS: Final = st.integers(0, 900_000).map(lambda each: f"{each / 1000:g}s")
_POLICIES: Final = st.fixed_dictionaries(
    {}, optional={"cache_ttl": _SPANS, "outage_grace": _SPANS, "auto_rotate": st.booleans()}
)
_TEXTS: Final = st.text(max_size=30).filter(str.isprintable)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """Makes a document with an organization, its links, and clusters that use them or not."""
    of = f"o{next(_NUMBERS)}"
    regions = draw(st.lists(_NAMES, min_size=1, max_size=3, unique=True))
    linked = draw(st.lists(st.sampled_from(regions), unique=True))
    links = [
        {
            "organization": of,
            "key_link": f"to-{region}",
            "region": region,
            "description": draw(_TEXTS),
            "key_spec": draw(_KEYS),
        }
        for region in linked
    ]
    clusters = []
    for number in range(draw(st.integers(0, 2))):
        specs = []
        for region in draw(st.lists(st.sampled_from(regions), min_size=1, unique=True)):
            spec: dict[str, Any] = {"region": region}
            if region not in linked or draw(st.booleans()):
                spec["key_spec"] = draw(_KEYS)
            elif draw(st.booleans()):
                spec["key_link"] = f"to-{region}"
            if draw(st.booleans()):
                spec["policy"] = draw(_POLICIES)
            specs.append(spec)
        clusters.append({"cluster": f"{of}-{number}", "organization": of, "region_specs": specs})
    organization = {
        "organization": of,
        "display_name": draw(_TEXTS),
        "default_key": "LINKED",
        "cluster_patterns": draw(st.sampled_from([[], [f"{of}-*", "x-*"]])),
        "max_clusters": draw(st.sampled_from([0, 7])),
    }
    return {"organizations": [organization], "key_links": links, "clusters": clusters}


@settings(
    max_examples=8,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking takes longer than a test may
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(documents())
def test_any_document_goes_round(cli: Cli, document: dict[str, Any]) -> None:
    """Applied, it is unchanged the second time; and so is what `get` prints, which says it all."""
    text = json.dumps(document, ensure_ascii=False)
    made = cli("apply", "-f", "-", "-o", "json", stdin=text)
    assert made.code == 0, made.err
    assert all(one["proven"] for one in made.json["changes"])
    assert cli("apply", "-f", "-", "--plan", stdin=text).code == 0
    name = document["organizations"][0]["organization"]
    printed = cli("get", "all", name, "--json")
    assert cli("apply", "-f", "-", "--plan", stdin=printed.out).code == 0
    shown = printed.json
    for kind, found in (("key_links", "key_link"), ("clusters", "cluster")):
        assert sorted(one[found] for one in shown.get(kind, [])) == sorted(
            one[found] for one in document[kind]
        )
    with keyfold.Client(cli.target) as client:
        organization = client.get_organization(name)
    assert organization.display_name == document["organizations"][0]["display_name"]
