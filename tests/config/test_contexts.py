"""celery-ops.yaml: what it means, and how it is refused."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from celery_ops.config.contexts import (
    LOCAL,
    CommandRelease,
    Configuration,
    Context,
    ImageRelease,
    Probe,
    SymlinkRelease,
    find,
    load,
    only_broker,
    schema,
    select,
)
from celery_ops.config.detached import DetachedNode
from celery_ops.config.kinds import (
    Duration,
    Flag,
    ListOf,
    MapOf,
    Options,
    Record,
    SecretText,
    Whole,
)
from celery_ops.config.layout import CONTEXT, FILE, SUPERVISORS
from celery_ops.config.secret import Secret
from celery_ops.config.services import ServiceCommands, split_server
from celery_ops.errors import InvalidDocument, UsageError
from celery_ops.model import ServiceRef

URL = "redis://:hush@10.0.0.5:6379/0"

WHOLE = """\
default: production
contexts:
  production:
    broker: ${CELERY_BROKER_URL}
    broker_options: {visibility_timeout: 43200, sentinel_kwargs: {password: "${SENTINEL}"}, x: 1.5}
    results: ${CELERY_RESULT_BACKEND}
    app: myproject.celery:app
    scope: ["*@web*"]
    protected: true
    read_only: false
    accept_pickle: true
    control_exchange: other
    event_exchange: otherev
    mask: [iban, "patient*"]
    ssh: {user: deploy, jump: bastion.example.com, known_hosts: ~/.ssh/known_hosts, sudo: true}
    hosts:
      web1: {address: 10.0.0.11}
      web2: {address: 10.0.0.12, hostname: web2.example.com, ssh: {port: 2222, user: root}}
    services:
      - {host: web1, systemd: celery-worker@1.service, worker: worker1@web1}
      - {hosts: [web1, web2], supervisord: celery:bulk, worker: "bulk@%h"}
      - {host: web1, systemd: celery-beat.service, beat: true}
      - {host: web2, supervisord: s, server: "http://me:${SUPERVISOR}@[::1]:9001", worker: "s@%n"}
      - host: local
        commands: {name: own, status: [ctl, status], start: [ctl, start], stop: [ctl, stop]}
    release:
      symlink: {current: /srv/app/current, releases: /srv/app/releases}
    probe: {task: myproject.ping, queues: [default], timeout: 20s}
    x-note: mine
"""
ENVIRON = {
    "CELERY_BROKER_URL": URL,
    "CELERY_RESULT_BACKEND": "redis://:quiet@10.0.0.6/1",
    "SENTINEL": "silent",
    "SUPERVISOR": "p%40ss",
    "HOME": "/home/me",
}


def written(folder: Path, text: str) -> Path:
    path = folder / "celery-ops.yaml"
    path.write_text(textwrap.dedent(text))
    return path


def context_of(folder: Path, text: str) -> Context:
    """The context of a file whose context `a` says this, besides its broker."""
    body = textwrap.indent(textwrap.dedent(text), "    ")
    path = written(folder, f"contexts:\n  a:\n    broker: {URL}\n{body}")
    return select(load(path, {}), None)


def problems_of(folder: Path, text: str) -> list[str]:
    with pytest.raises(InvalidDocument) as caught:
        context_of(folder, text)
    return [f"{one.line}:{one.column}: {one.says}" for one in caught.value.problems]


def image(name: str, env_file: str, variable: str) -> str:
    return f"release: {{image: {{name: '{name}', env_file: {env_file}, variable: {variable}}}}}"


def test_everything_the_design_writes_is_read(tmp_path: Path) -> None:
    context = select(load(written(tmp_path, WHOLE), ENVIRON), None)
    assert (context.name, context.broker, context.app) == (
        "production",
        Secret(URL),
        "myproject.celery:app",
    )
    assert context.broker_options == {
        "visibility_timeout": 43200,
        "sentinel_kwargs": {"password": "silent"},
        "x": 1.5,
    }
    assert (context.protected, context.read_only, context.accept_pickle) == (True, False, True)
    assert (context.control_exchange, context.event_exchange) == ("other", "otherev")
    assert context.mask == ("iban", "patient*")
    assert context.release == SymlinkRelease("/srv/app/current", "/srv/app/releases")
    assert context.probe == Probe("myproject.ping", ("default",), 20.0)
    assert context.directory == tmp_path


def test_a_host_inherits_the_ssh_settings_of_its_context(tmp_path: Path) -> None:
    context = select(load(written(tmp_path, WHOLE), ENVIRON), None)
    local, web1, web2 = context.hosts
    assert (local.name, local.is_local, web1.is_local) == (LOCAL, True, False)
    assert (web1.address, web1.hostname, web1.ssh) == ("10.0.0.11", "web1", context.ssh)
    assert web1.ssh.known_hosts == Path("/home/me/.ssh/known_hosts")
    assert (web2.ssh.user, web2.ssh.port, web2.ssh.sudo) == ("root", 2222, True)
    assert web2.ssh.jump == "bastion.example.com"


def test_services_are_spelled_out_one_a_host(tmp_path: Path) -> None:
    context = select(load(written(tmp_path, WHOLE), ENVIRON), None)
    server = "http://me@[::1]:9001"
    own = ServiceRef(LOCAL, "commands", "own")
    assert context.services == (
        ServiceRef("web1", "systemd", "celery-worker@1.service", "worker1@web1"),
        ServiceRef("web1", "supervisord", "celery:bulk", "bulk@web1"),
        ServiceRef("web2", "supervisord", "celery:bulk", "bulk@web2.example.com"),
        ServiceRef("web1", "systemd", "celery-beat.service", beat=True),
        ServiceRef("web2", "supervisord", "s", "s@web2", server=server),
        own,
    )
    assert context.server_passwords == {server: Secret("p@ss")}
    assert context.commands == {
        own: ServiceCommands(("ctl", "status"), ("ctl", "start"), ("ctl", "stop"))
    }


def test_a_node_that_runs_by_itself_is_known_by_its_start_command(tmp_path: Path) -> None:
    context = context_of(
        tmp_path,
        """
        hosts: {web1: {}, web2: {hostname: web2.example.com}}
        services:
          - {hosts: [web1, web2], multi: w1, worker: w1@%h,
             start: [celery, multi, start, w1, -A, proj], log: /var/log/%n.log}
        """,
    )
    start = ("celery", "multi", "start", "w1", "-A", "proj")
    assert context.nodes == {
        ServiceRef(host, "multi", "w1", f"w1@{name}"): DetachedNode(
            "/var/run/celery/w1.pid", start, f"/var/log/{host}.log"
        )
        for host, name in (("web1", "web1"), ("web2", "web2.example.com"))
    }


def test_what_is_wrong_with_a_node_is_told(tmp_path: Path) -> None:
    problems = problems_of(
        tmp_path,
        """
        hosts: {web1: {}}
        services:
          - {host: web1, multi: w1}
          - {host: web1, multi: w2, start: [celery, multi, start, w2, w3]}
          - {host: web1, systemd: a, pidfile: /a, start: [a]}
        """,
    )
    assert [problem.partition(": ")[2] for problem in problems] == [
        "multi needs start: the command that starts this node alone",
        "start must start w2 and no other node: celery multi start w2",
        "pidfile is for multi only",
        "start is for multi only",
    ]


def test_no_secret_shows_in_a_context(tmp_path: Path) -> None:
    configuration = load(written(tmp_path, WHOLE), ENVIRON)
    text = repr(configuration) + str(configuration) + select(configuration, None).address
    assert not [word for word in ("hush", "quiet", "silent", "p@ss", "p%40ss") if word in text]


@pytest.mark.parametrize(
    ("text", "release"),
    [
        (
            "release: {image: {name: 'reg:5000/team/app', env_file: /srv/.env, variable: TAG}}",
            ImageRelease("reg:5000/team/app", "/srv/.env", "TAG"),
        ),
        (
            "release: {commands: {current: [a], activate: [b], exists: [c]}}",
            CommandRelease(("a",), ("b",), ("c",), None),
        ),
    ],
)
def test_a_release_is_told_in_one_of_three_ways(tmp_path: Path, text: str, release: object) -> None:
    assert context_of(tmp_path, text).release == release


def test_containers_are_services_of_docker_and_compose(tmp_path: Path) -> None:
    context = context_of(
        tmp_path,
        """\
        services:
          - {host: local, docker: w1, worker: w1@c1, server: "unix:///run/user/9/docker.sock"}
          - {host: local, compose: shop/w, worker: w2@c2, files: [/srv/a.yml, /srv/b.yml]}
          - {host: local, compose: shop/w/2}
        """,
    )
    socket = "unix:///run/user/9/docker.sock"
    whole = ServiceRef(LOCAL, "compose", "shop/w", "w2@c2")
    assert context.services == (
        ServiceRef(LOCAL, "docker", "w1", "w1@c1", server=socket),
        whole,
        ServiceRef(LOCAL, "compose", "shop/w/2"),
    )
    assert context.compose_files == {whole: ("/srv/a.yml", "/srv/b.yml")}


def test_hosts_of_a_service_may_be_globs(tmp_path: Path) -> None:
    context = context_of(
        tmp_path,
        """\
        hosts: {web1: {}, web2: {}, db: {}}
        services: [{hosts: ["web*", web1], systemd: c, worker: "w@%h"}]
        """,
    )
    assert [service.worker for service in context.services] == ["w@web1", "w@web2"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("brokr: x", "4:5: unknown key 'brokr' in context a (did you mean broker?)"),
        ("app: [a]", "4:10: app of context a must be text, not a list"),
        ("protected: yes", "4:16: protected of context a must be true or false, not 'yes'"),
        ("ssh: {port: 70000}", "4:17: port of ssh of context a can be at most 65535"),
        ("ssh: {connect_timeout: 5}", "4:28: connect_timeout of ssh of context a: not a duration"),
        ("scope: []", "4:12: scope of context a is empty"),
        ("hosts: {local: {}}", "4:20: `local` is this machine"),
        ("hosts: {'a b': {}}", "4:13: 'a b' cannot name a host"),
        ("services: [{host: loca, systemd: x}]", "no host is called 'loca' (did you mean local?)"),
        ("services: [{hosts: ['x*'], systemd: x}]", "no host matches 'x*'"),
        ("services: [{host: local}]", "exactly one of systemd, supervisord,"),
        ("services: [{host: local, systemd: a, docker: b}]", "has both systemd and docker"),
        ("services: [{systemd: a}]", "needs exactly one of host, hosts, and has none"),
        ("services: [{host: local, systemd: a, worker: w}]", "named name@host, not 'w'"),
        ("services: [{host: local, systemd: a, worker: w@%i}]", "'%i' is not known here"),
        (
            "services: [{host: local, systemd: a, server: 'unix:///s'}]",
            "for supervisord, docker and compose only",
        ),
        ("services: [{host: local, supervisord: a, server: /s}]", "is not unix:///path"),
        ("services: [{host: local, docker: a, server: 'http://h:1'}]", "only asked at a socket"),
        ("services: [{host: local, compose: a}]", "4:39: write project/service, or"),
        ("services: [{host: local, docker: a, files: [/a]}]", "files are for compose only"),
        ("services: [{host: local, compose: a/b, files: [a.yml]}]", "whole path without spaces"),
        ("services: [{host: local, systemd: a}, {host: local, systemd: a}]", "is listed twice"),
        (
            "release: {symlink: {current: a, releases: b},"
            " image: {name: a, env_file: /a, variable: A}}",
            "symlink and image",
        ),
        ("release: {image: app}", "must be a mapping, not 'app': write {name: registry/app, env_"),
        (image("app:v1", "/.env", "TAG"), "4:29: 'app:v1' is not an image's name without"),
        (image("app", ".env", "TAG"), "'.env' is not a whole path"),
        (image("app", "/.env", "$TAG"), "'$TAG' cannot be the name of a variable"),
        ("release: {symlink: {current: a}}", "symlink of release of context a needs the key"),
        ("release: {commands: {current: a, activate: [b]}}", "must be a list, not 'a'"),
        ("probe: {task: a}", "probe of context a needs the key 'queues'"),
        ("mask: iban", "mask of context a must be a list, not 'iban'"),
        ("mask: []", "mask of context a is empty"),
        ("broker_options: [a]", "broker_options of context a must be a mapping, not a list"),
        ("broker_options: {a: '${b'}", "write a variable as ${NAME}"),
    ],
)
def test_what_is_wrong_is_said_where_it_stands(tmp_path: Path, text: str, problem: str) -> None:
    [found] = problems_of(tmp_path, text)
    assert problem in found
    assert found.startswith("4:")


def test_two_services_that_expect_one_worker_are_refused(tmp_path: Path) -> None:
    [problem] = problems_of(
        tmp_path,
        """\
        hosts: {web1: {}, web2: {}}
        services: [{hosts: [web1, web2], systemd: c, worker: "w@web1"}]
        """,
    )
    assert problem.startswith("5:58: two services expect the worker 'w@web1'")


def test_all_problems_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    text = "apq: 1\nservices:\n  - {host: x, systemd: a}\n  - {host: local}\nprobe: {}\n"
    assert len(problems_of(tmp_path, text)) == 5


def test_a_broker_that_is_no_url_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(InvalidDocument, match="is not a URL") as caught:
        load(written(tmp_path, "contexts: {a: {broker: 'hush@host'}}"), {})
    assert "hush" not in str(caught.value)


def test_a_variable_that_is_not_set_has_a_place(tmp_path: Path) -> None:
    configuration = load(written(tmp_path, WHOLE), {})
    with pytest.raises(InvalidDocument) as caught:
        select(configuration, "production")
    assert [(one.line, one.says.partition("variable ")[2]) for one in caught.value.problems] == [
        (4, "CELERY_BROKER_URL is not set"),
        (5, "SENTINEL is not set"),
        (6, "CELERY_RESULT_BACKEND is not set"),
        (23, "SUPERVISOR is not set"),
    ]


def test_a_context_without_its_variables_does_not_stand_in_the_way_of_others(
    tmp_path: Path,
) -> None:
    text = "contexts:\n  a: {broker: '${NOT_SET}'}\n  b: {broker: 'redis://h'}\n"
    configuration = load(written(tmp_path, text), {})
    assert select(configuration, "b").broker == Secret("redis://h")
    with pytest.raises(UsageError, match=r"2 contexts and no default"):
        select(configuration, None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "needs the key 'contexts'"),
        ("contexts: {}", "needs at least one context"),
        ("contexts: []", "must be a mapping"),
        (
            "default: prod\ncontexts: {production: {broker: 'redis://h'}}",
            "no context is called 'prod'",
        ),
        ("contexts: {a: }", "context a must be a mapping, not nothing"),
    ],
)
def test_a_file_without_a_usable_context_is_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InvalidDocument, match=says):
        load(written(tmp_path, text), {})


def test_a_file_that_cannot_be_read_is_a_usage_error(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(UsageError, match="cannot be read"):
            load(path, {})


def test_the_first_file_there_is_wins(tmp_path: Path) -> None:
    cwd, home, xdg = tmp_path / "cwd", tmp_path / "home", tmp_path / "xdg"
    folders = [cwd, xdg / "celery-ops", home / ".config" / "celery-ops"]
    for folder in folders:
        folder.mkdir(parents=True)
    here, in_xdg, in_home = (written(folder, "") for folder in folders)
    environ = {"XDG_CONFIG_HOME": str(xdg)}

    def found(explicit: Path | None = None, **more: str) -> Path | None:
        return find(explicit, environ=environ | more, cwd=cwd, home=home)

    assert found(Path("/x"), CELERY_OPS_CONFIG="y") == Path("/x")
    assert found(CELERY_OPS_CONFIG="y.yaml") == cwd / "y.yaml"
    assert found() == here
    here.unlink()
    assert found() == in_xdg
    assert found(XDG_CONFIG_HOME="relative") == found(XDG_CONFIG_HOME="") == in_home
    in_home.unlink()
    assert found(XDG_CONFIG_HOME="") is None


def test_the_only_context_needs_no_name(tmp_path: Path) -> None:
    assert context_of(tmp_path, "app: a").name == "a"


def test_an_unknown_context_is_refused_with_what_there_is(tmp_path: Path) -> None:
    configuration = load(written(tmp_path, WHOLE), ENVIRON)
    with pytest.raises(UsageError, match="did you mean production") as caught:
        select(configuration, "producton")
    assert caught.value.fix == "There are: production."


def test_without_a_file_the_way_out_is_named() -> None:
    for name in (None, "production"):
        with pytest.raises(UsageError) as caught:
            select(Configuration(), name)
        assert "-b redis://" in str(caught.value.fix)


def test_a_broker_alone_makes_a_context() -> None:
    context = only_broker(URL)
    assert (context.name, context.broker) == ("redis://:***@10.0.0.5:6379/0", Secret(URL))
    assert [host.name for host in context.hosts] == [LOCAL]
    assert "hush" not in repr(context)
    with pytest.raises(UsageError, match="not a URL"):
        only_broker("hush")


def test_scope_says_whose_a_worker_is(tmp_path: Path) -> None:
    context = context_of(tmp_path, 'scope: ["*@web*", "one@db"]')
    assert [context.owns(name) for name in ("a@web1", "one@db", "two@db")] == [True, True, False]
    assert only_broker(URL).owns("anything@anywhere")


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        ("unix:///run/s.sock", ("unix:///run/s.sock", None)),
        ("unix://u:p%2Fw@/run/s.sock", ("unix://u@/run/s.sock", Secret("p/w"))),
        ("http://localhost:9001/", ("http://localhost:9001", None)),
        ("http://u:pw@[::1]:9001", ("http://u@[::1]:9001", Secret("pw"))),
    ],
)
def test_a_servers_password_is_kept_apart(server: str, expected: tuple[str, Secret]) -> None:
    assert split_server(Secret(server)) == expected


@given(st.text(max_size=60) | st.text("unix:/htp@[]1%#?\\. ", max_size=40))
def test_any_server_is_split_or_refused_without_being_shown(server: str) -> None:
    try:
        place, _ = split_server(Secret(server))
    except ValueError as error:
        says = str(error)
        assert says.startswith("server ")
    else:
        assert place.startswith(("unix://", "http://"))


def test_a_host_whose_entry_is_wrong_is_told_once(tmp_path: Path) -> None:
    text = (
        "    hosts: {web1: 10.0.0.11}\n"
        "    services: [{host: web1, systemd: a.service}, {host: wbe1, systemd: b.service}]\n"
    )
    problems = problems_of(tmp_path, text)
    assert len(problems) == 2
    assert "host web1 must be a mapping" in problems[0]
    assert "no host is called 'wbe1' (did you mean web1?)" in problems[1]


# --- the schema and the loader are one table ----------------------------------------------------

VALIDATOR = jsonschema.Draft202012Validator(schema())


def test_the_schema_is_a_schema_and_knows_every_key() -> None:
    VALIDATOR.check_schema(schema())
    assert not list(VALIDATOR.iter_errors(yaml.safe_load(WHOLE)))
    properties: Any = schema()["properties"]
    [context] = [one for one in properties["contexts"]["patternProperties"].values() if one]
    assert list(context["properties"]) == [key.name for key in CONTEXT.keys]
    assert {key.name for key in FILE.keys} == set(properties)
    assert set(SUPERVISORS) < set(context["properties"]["services"]["items"]["properties"])


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70000),
    st.sampled_from(["", "a", "local", "10s", "w@%h", "redis://h", "unix:///s", "${X}", "a b"]),
)
KEYS = st.sampled_from(sorted({key.name for key in (*FILE.keys, *CONTEXT.keys)} | {"host", "odd"}))
ANYTHING = st.recursive(
    JUNK,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
LEAVES: dict[type, st.SearchStrategy[Any]] = {
    Flag: st.booleans(),
    Whole: st.integers(1, 65535),
    Duration: st.just("10s"),
    SecretText: st.sampled_from(["redis://h", "${X}"]),
    Options: st.dictionaries(st.just("a"), JUNK),
}


def grown(kind: Any) -> st.SearchStrategy[Any]:
    """Values that are right for a kind, and now and then anything at all."""
    match kind:
        case Record():
            right = st.tuples(*(st.sampled_from(group) for group in kind.one_of)).flatmap(
                lambda chosen: grown_record(kind, chosen)
            )
        case ListOf():
            right = st.lists(grown(kind.kind), min_size=kind.least, max_size=2)
        case MapOf():
            names = st.sampled_from(["a", "web1", "x-note"])
            right = st.dictionaries(names, grown(kind.kind), min_size=kind.least, max_size=2)
        case _:
            right = LEAVES.get(type(kind), st.sampled_from(["local", "a", "w@%h"]))
    return st.integers(0, 79).flatmap(lambda roll: ANYTHING if roll == 0 else right)


def grown_record(kind: Record, chosen: tuple[str, ...]) -> st.SearchStrategy[Any]:
    keys = {key.name: key for key in kind.keys}
    left_out = {name for group in kind.one_of for name in group} - set(chosen)
    needed = {key.name for key in kind.keys if key.required} | set(chosen)
    return st.fixed_dictionaries(
        {name: grown(keys[name].kind) for name in needed},
        optional={name: grown(keys[name].kind) for name in set(keys) - needed - left_out},
    )


@settings(deadline=None)
@given(grown(FILE))
def test_whatever_a_file_says_it_is_read_or_refused_with_places(
    tmp_path_factory: pytest.TempPathFactory, content: object
) -> None:
    path = tmp_path_factory.getbasetemp() / "generated.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    try:
        load(path, {"X": "redis://x"})
    except InvalidDocument as error:
        problems = error.problems
        assert all(one.line >= 1 and one.column >= 1 and one.says for one in problems)
    else:
        assert not list(VALIDATOR.iter_errors(content))
