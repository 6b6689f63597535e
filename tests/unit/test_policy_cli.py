"""`keyfold-server policy` shows the answer and its line in the file, and has an exit code."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from keyfold_server.admin import EXIT_ERROR, app
from keyfold_server.admin.policy import EXIT_REFUSED

_POLICY = """\
on_behalf_of = ["dns:web"]

[[grant]]
callers = ["dns:app-*"]
roles = ["crypto:wrap"]
clusters = ["prod-*"]
context = { app = "billing" }

[[grant]]
callers = ["dns:web", "dns:app-1"]
roles = ["crypto:unwrap"]

[[grant]]
callers = ["local"]
roles = ["operator"]
clusters = ["c*"]
organizations = ["acme"]
regions = ["eu-*"]
keys = [{ type = "AWS_KMS", uri = "arn:aws:kms:*:1:key/*", principal = "ambient" }]
"""


_OPERATORS = (
    "Enable, AddRegions, Rotate, Revoke, Restore, RetireGeneration, DeleteCluster:unused, "
    "TestKey, GetAccessPolicy, Recheck, GetStatus, ListClusters, ListKeyUsage, GetOrganization, "
    "ListOrganizations, CreateKeyLink, GetKeyLink, ListKeyLinks, UpdateKeyLink, DeleteKeyLink, "
    "StartOperation, ListOperations, GetOperation, WaitOperation, CancelOperation, "
    "DeleteOperation, WatchEvents, DeleteCursor"
)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A policy file that the environment names."""
    path = tmp_path / "policy.toml"
    path.write_text(_POLICY)
    monkeypatch.setenv("KEYFOLD_POLICY", str(path))
    return path


def _run(command: str, *words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["policy", command, *words])
    return result.exit_code, result.stdout, result.stderr


def _check(words: str) -> tuple[int, list[str]]:
    code, out, err = _run("check", *words.split())
    assert not err
    return code, out.splitlines()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--as dns:app-2 --rpc Wrap --cluster prod-1 --region eu --context app=billing", "3"),
        ("--as dns:web --rpc Unwrap --cluster any --region eu", "9"),
        ("--as local --rpc GetStatus --cluster c --organization acme --region eu-1", "13"),
        ("--as local --rpc Revoke --cluster c --organization acme --region eu-1", "13"),
        ("--as dns:x --as local --rpc ListClusters", "13"),
        (
            (
                "--as local --rpc Enable --cluster c --organization acme --region eu-1 "
                "--key-type AWS_KMS --key-uri arn:aws:kms:eu:1:key/k"
            ),
            "13",
        ),
    ],
)
def test_what_is_allowed_names_its_line(file: Path, words: str, line: str) -> None:
    """An allowed call exits with 0 and says which grant was enough."""
    assert _check(words) == (0, [f"allowed: {file}:{line}"])


def test_what_takes_two_grants_names_both(file: Path) -> None:
    """Rewrap needs both halves of crypto; of all grants the two that give them are shown."""
    words = "--as dns:app-1 --as local --rpc Rewrap --cluster prod-1 --region eu-1"
    assert _check(f"{words} --context app=billing") == (
        0,
        [f"allowed: {file}:3, {file}:9 together"],
    )


def test_health_takes_no_grant(file: Path) -> None:
    """A method that is open to every caller is not attributed to a grant."""
    del file
    for caller in ("local", "dns:stranger"):
        words = f"--as {caller} --rpc grpc.health.v1.Health/Check"
        assert _check(words) == (0, ["allowed: every caller may call it"])


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (
            "--as dns:app-2 --rpc Wrap --cluster dev --region eu",
            "hidden: there is no cluster dev; ",
        ),
        (
            "--as local --rpc Rotate --cluster c --organization globex",
            "hidden: there is no cluster ",
        ),
        (
            "--as local --rpc Rotate --cluster c --organization acme --region us",
            "hidden: cluster c has no region us; ",
        ),
        ("--as dns:web --rpc Wrap --cluster c --region eu", "denied: dns:web may not call Wrap"),
        (
            "--as dns:app-2 --rpc Wrap --cluster prod-1 --region eu --context app=x",
            "denied: the context must hold app=billing",
        ),
        (
            "--as local --rpc Revoke --cluster c --organization acme",
            "denied: local may call Revoke for some regions only; name the regions",
        ),
        (
            (
                "--as local --rpc Enable --cluster c --organization acme --region eu-1 "
                "--key-type AWS_KMS --key-uri arn:aws:kms:eu:1:key/k --principal role"
            ),
            "denied: no grant of local names this AWS_KMS key as principal role ",
        ),
        ("--as dns:stranger --rpc GetStatus --cluster c", "denied: dns:stranger may not call "),
    ],
)
def test_what_is_not_allowed_says_why(file: Path, words: str, answer: str) -> None:
    """A refused call exits with 1, and shows the server's own message and the caller's grants."""
    code, lines = _check(words)
    assert code == EXIT_REFUSED
    assert lines[0].startswith(answer)
    if "stranger" in words:
        assert lines[1:] == ["no grant names dns:stranger"]
    else:
        assert lines[1:]
        assert all(line.startswith(f"{file}:") and ": not enough: " in line for line in lines[1:])


def test_explain_lists_the_caller_s_grants(file: Path) -> None:
    """Each grant is shown with its line, roles, methods and restrictions."""
    code, out, err = _run("explain", "--as", "local")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"{file}:13",
        "  callers       local",
        "  roles         operator",
        f"  methods       {_OPERATORS}",
        "  clusters      c*",
        "  organizations acme",
        "  regions       eu-*",
        "  context       any",
        "  keys          AWS_KMS arn:aws:kms:*:1:key/* as ambient",
    ]
    code, out, _ = _run("explain", "--as", "dns:web")
    assert code == 0
    assert out.splitlines()[-1] == "Keyfold believes it about whom it calls for"
    code, out, _ = _run("explain", "--as", "dns:stranger")
    assert (code, out) == (EXIT_REFUSED, "no grant names dns:stranger: it may do nothing\n")


def test_a_broken_file_is_one_line(file: Path) -> None:
    """A fault in the file goes to stderr with its line and field, and exits with 2."""
    file.write_text(_POLICY.replace('"operator"', '"operators"'))
    for words in (("check", "--as", "local", "--rpc", "Wrap"), ("explain", "--as", "local")):
        code, out, err = _run(*words)
        assert (code, out) == (EXIT_ERROR, "")
        assert err.startswith(f"error: {file}:13: roles[0]: there is no role 'operators'")
        assert err.count("\n") == 1


def test_a_grant_that_narrows_no_names_rests_on_the_organizations_patterns(file: Path) -> None:
    """C8: where an operator of one customer may use any name, the answer says what decides."""
    file.write_text(_POLICY.replace('clusters = ["c*"]\n', ""))
    words = "--as local --rpc Enable --cluster any --organization acme --region eu-1"
    assert _check(words) == (
        0,
        [f"allowed: {file}:13", "if the cluster_patterns of organization acme allow it"],
    )


def test_methods_of_organizations_are_decided_by_the_organization(file: Path) -> None:
    """C7: a grant for some clusters covers no organization; one for some regions covers those."""
    link = "--as local --rpc CreateKeyLink --organization acme"
    key = " --key-type AWS_KMS --key-uri arn:aws:kms:eu:1:key/k"
    assert _check(link)[1][0] == (
        "hidden: there is no organization acme; check the name, or make it with CreateOrganization"
    )
    file.write_text(_POLICY.replace('clusters = ["c*"]\n', ""))
    assert _check(f"{link} --region eu-1{key}") == (0, [f"allowed: {file}:13"])
    assert _check(f"{link} --region us")[1][0] == (
        "denied: no grant covers region us of organization acme"
    )
    assert _check(f"{link} --region eu-1{key} --principal role")[1][0].startswith(
        "denied: no grant"
    )
    made = _check("--as local --rpc CreateOrganization --organization acme")
    assert made[1][0].startswith("denied: local may not call CreateOrganization")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--as local --rpc Shred", "there is no method Shred; use one of Wrap, "),
        ("--as local --rpc Wrap --cluster c", "give --cluster, --region"),
        ("--as local --rpc TestKey --key-uri k", "give --key-type"),
        ("--as local --rpc TestKey --key-type AWS_KMS", "the key spec has no uri"),
        ("--as local --rpc Wrap --context app", "--context 'app' is not a pair; write NAME=VALUE"),
    ],
)
def test_a_question_that_lacks_something_is_an_error(file: Path, words: str, says: str) -> None:
    """An incomplete question exits with 2, not as a refusal, and says what to give."""
    del file
    code, out, err = _run("check", *words.split())
    assert (code, out) == (EXIT_ERROR, "")
    assert says in err


def test_without_a_file_it_says_how_to_name_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without option and environment variable, the error names both."""
    monkeypatch.delenv("KEYFOLD_POLICY", raising=False)
    code, _, err = _run("explain", "--as", "local")
    assert (code, err) == (
        EXIT_ERROR,
        "error: no policy file; give --file, or set KEYFOLD_POLICY\n",
    )


_BY_CLAIM = """\
[[grant]]
callers = ["jwt:https://idp#*"]
roles = ["operator"]
organization_claim = "org"
keys = [{ type = "AWS_KMS", uri = "arn:aws:kms:*:*:key/*", principal = "arn:aws:iam::*:role/k" }]
"""


def test_a_grant_by_a_claim_is_decided_by_the_token(file: Path) -> None:
    """What the caller's token says is part of the question, and of the answer."""
    file.write_text(_BY_CLAIM)
    who = "--as jwt:https://idp#ann --rpc Revoke --cluster c"
    own = f"{who} --organization acme --claim org=acme"
    assert _check(own) == (0, [f"allowed: {file}:1"])
    shown = "roles operator; organizations the one in the claim org of the caller's token; keys "
    code, lines = _check(f"{who} --organization globex --claim org=acme")
    assert (code, lines[0][:7]) == (EXIT_REFUSED, "hidden:")
    assert lines[1].startswith(f"{file}:1: not enough: {shown}")
    for claim, why in (
        ("", "the caller has no token with the claim org"),
        ("--claim tenant=acme", "the caller has no token with the claim org"),
        ("--claim org=", "the claim org is empty"),
        ("--claim org=a*", "the claim org is not a valid name"),
    ):
        code, lines = _check(f"{who} --organization acme {claim}")
        assert (code, lines[0][:7]) == (EXIT_REFUSED, "denied:")
        assert f"does not hold, because {why}: " in lines[0]
        assert lines[1].startswith(f"{file}:1: does not hold, because {why}: {shown}")
    enable = own.replace("Revoke", "Enable")
    assert _check(enable)[1][1] == "if the cluster_patterns of organization acme allow it"


def test_explain_says_for_whom_a_grant_by_a_claim_holds(file: Path) -> None:
    """With the token's claims, explain names the organization, or why the grant does not hold."""
    file.write_text(_BY_CLAIM + 'organizations = ["a*"]\n')
    for claims, holds in (
        ((), None),
        (("--claim", "org=acme"), "for acme"),
        (("--claim", "org=globex"), "no: the claim org names an organization for which it does "),
        (("--claim", "org="), "no: the claim org is empty"),
    ):
        code, out, err = _run("explain", "--as", "jwt:https://idp#ann", *claims)
        assert (code, err) == (0, "")
        lines = out.splitlines()
        assert (
            "  organizations the one in the claim org of the caller's token, if it is one of a*"
            in lines
        )
        told = [line for line in lines if line.startswith("  holds")]
        assert len(told) == (holds is not None)
        assert all(line.startswith(f"  holds         {holds}") for line in told)
