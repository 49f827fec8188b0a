"""The file that is written: short, as a person would write it, and read back as what was meant."""

from __future__ import annotations

import ssl
import tempfile
import textwrap
from pathlib import Path

import jsonschema
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from celery_ops.config.contexts import Context, load, schema, select
from celery_ops.config.detached import DetachedNode
from celery_ops.config.draft import Draft, DraftHost, scalar, text, without_secrets
from celery_ops.model import ServiceRef

URL = "redis://10.0.0.5/0"
ENVIRON = {"CELERY_BROKER_URL": "redis://:hush@10.0.0.5/0"}


def read_back(written: str) -> Context:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "celery-ops.yaml"
        path.write_text(written, encoding="utf-8")
        return select(load(path, ENVIRON), None)


def test_equal_services_over_hosts_become_one_line() -> None:
    hosts = (
        DraftHost("web1", address="10.0.0.11"),
        DraftHost("web2", address="10.0.0.12", hostname="web2.example.com"),
        DraftHost("db1", user="root", port=2222),
    )
    services = (
        ServiceRef("web1", "systemd", "celery@1.service", "w1@web1"),
        ServiceRef("web2", "systemd", "celery@1.service", "w1@web2.example.com"),
        ServiceRef("db1", "systemd", "celery@1.service", "mail@db1"),
        ServiceRef("db1", "systemd", "celery-beat.service", beat=True),
        ServiceRef("local", "supervisord", "bulk:bulk_0", "b@x", server="unix:///tmp/s"),
    )
    draft = Draft(
        "production",
        "${CELERY_BROKER_URL}",
        settings=(("app", "proj.celery:app"),),
        broker_options={"visibility_timeout": 43200},
        user="deploy",
        sudo=True,
        hosts=hosts,
        services=services,
        maybe=(ServiceRef("web1", "systemd", "old.service"),),
        remarks=("Not found: w9@web9",),
    )
    assert text(draft) == textwrap.dedent(
        """\
        # yaml-language-server: $schema=celery-ops.schema.json
        # (for your editor: celery-ops config schema > celery-ops.schema.json)
        default: production
        contexts:
          production:
            broker: ${CELERY_BROKER_URL}
            broker_options: {visibility_timeout: 43200}
            app: proj.celery:app
            ssh: {user: deploy, sudo: true}
            hosts:
              web1: {address: 10.0.0.11}
              web2: {address: 10.0.0.12, hostname: web2.example.com}
              db1: {ssh: {user: root, port: 2222}}
            services:
              - {hosts: [web1, web2], systemd: celery@1.service, worker: "w1@%h"}
              - {host: db1, systemd: celery@1.service, worker: mail@db1}
              - {host: db1, systemd: celery-beat.service, beat: true}
              - {host: local, supervisord: bulk:bulk_0, worker: b@x, server: unix:///tmp/s}
              # May be of another deployment. Remove the # of those that are of this one:
              # - {host: web1, systemd: old.service}
            # Not found: w9@web9
        """
    )
    assert set(read_back(text(draft)).services) == set(services)


def test_a_node_that_no_supervisor_runs_is_written_with_its_start() -> None:
    start = ("/v/bin/python3", "-m", "celery", "worker", "--detach", "--pidfile=/r/w1.pid")
    draft = Draft(
        "production",
        "${CELERY_BROKER_URL}",
        hosts=(DraftHost("web1"), DraftHost("web2"), DraftHost("web3")),
        services=tuple(
            ServiceRef(host, "multi", "w1", f"w1@{host}") for host in ("web1", "web2", "web3")
        ),
        starts={("web1", "w1"): start, ("web2", "w1"): start, ("web3", "w1"): (*start, "-c", "2")},
    )
    written = text(draft)
    assert written.count("multi: w1") == 2
    assert read_back(written).nodes == {
        one: DetachedNode("/r/w1.pid", draft.starts[one.host, "w1"]) for one in draft.services
    }


def test_many_hosts_become_a_glob_if_it_means_exactly_these() -> None:
    names = [f"web{number}" for number in range(1, 8)]
    services = tuple(ServiceRef(name, "systemd", "c.service", f"w@{name}") for name in names)
    hosts = tuple(map(DraftHost, names))
    assert "{hosts: [web*], " in text(Draft("p", URL, hosts=hosts, services=services)).replace(
        '"', ""
    )
    more = (*hosts, DraftHost("webmail"))
    assert "hosts: [web1, web2, " in text(Draft("p", URL, hosts=more, services=services))


def test_services_that_are_only_comments_leave_a_valid_file() -> None:
    maybe = (ServiceRef("web1", "systemd", "old.service"),)
    draft = Draft("p", URL, hosts=(DraftHost("web1"),), maybe=maybe)
    assert read_back(text(draft)).services == ()


def test_options_that_may_be_secret_are_left_out_and_named() -> None:
    options = {
        "visibility_timeout": 7200,
        "global_keyprefix": "shop:",
        "sentinel_kwargs": {"password": "hush", "db": 1},
        "AuthToken": "hush",
        "fallback": ["redis://:hush@h/0", "redis://h/1"],
        "ssl": {"ssl_cert_reqs": ssl.CERT_NONE, "ssl_keyfile": "/k"},
        "callback": print,
    }
    kept, left_out = without_secrets(options)
    assert kept == {
        "visibility_timeout": 7200,
        "global_keyprefix": "shop:",
        "sentinel_kwargs": {"db": 1},
        "fallback": [None, "redis://h/1"],
        "ssl": {"ssl_cert_reqs": "CERT_NONE", "ssl_keyfile": "/k"},
    }
    assert set(left_out) == {"sentinel_kwargs.password", "AuthToken", "fallback", "callback"}
    written = text(Draft("p", URL, broker_options=kept, remarks=left_out))
    assert "hush" not in written
    assert "ssl_cert_reqs: CERT_NONE," in written


hostile = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from("%h{}[],:#&*!|>'\"@`- \n\t\\$~?="),
    min_size=1,
    max_size=12,
)


@given(value=hostile)
@example(value="NO")
@example(value="on")
def test_a_string_is_read_back_as_itself(value: str) -> None:
    for before, after in (("", ""), ("{a: ", "}"), ("[", "]")):
        found = yaml.safe_load(f"{before}{scalar(value)}{after}")
        inner = found if not before else (found["a"] if before[0] == "{" else found[0])
        assert str(inner) == value


HOSTS = ("web1", "web2", "local")
programs = st.builds(
    ServiceRef,
    host=st.sampled_from(HOSTS),
    supervisor=st.just("supervisord"),
    name=hostile,
    worker=st.none()
    | st.builds(
        "{}@{}".format,
        hostile.filter(lambda name: "@" not in name),
        st.sampled_from(["web1", "two.example.com", "%h", "x y"]),
    ),
    beat=st.booleans(),
    server=st.sampled_from([None, "unix:///tmp/a b", "http://127.0.0.1:9001"]),
)


@settings(deadline=None, max_examples=50)
@given(
    services=st.lists(programs, max_size=8, unique_by=lambda one: (one.host, one.name, one.server)),
    remark=hostile,
)
def test_whatever_services_are_called_they_are_read_back(
    services: list[ServiceRef], remark: str
) -> None:
    seen: set[str | None] = {None}
    kept = []
    for one in services:
        if one.worker is None or one.worker not in seen:
            kept.append(one)
        seen.add(one.worker)
    hosts = (DraftHost("web1"), DraftHost("web2", hostname="two.example.com"))
    draft = Draft("p", URL, hosts=hosts, services=tuple(kept), remarks=(remark,))
    assert set(read_back(text(draft)).services) == set(kept)
    jsonschema.validate(yaml.safe_load(text(draft)), schema())
