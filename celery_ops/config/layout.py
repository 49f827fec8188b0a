"""Every key of `celery-ops.yaml`, once: the loader reads by it, the JSON schema is made of it."""

from __future__ import annotations

from typing import Any

from celery_ops.config.kinds import (
    Duration,
    Flag,
    Key,
    ListOf,
    LocalPath,
    MapOf,
    Options,
    PlacedText,
    Record,
    SecretText,
    Text,
    Whole,
)

ARGV = ListOf(Text(), least=1)

USER = Key("user", Text(), "Who to log in as")
PORT = Key("port", Whole(1, 65535), "Where sshd listens")
JUMP = Key("jump", Text(), "The host to go through: [user@]host[:port]")
KNOWN_HOSTS = Key("known_hosts", LocalPath(), "Host keys that are trusted; others are refused")
KEYS = Key("keys", ListOf(LocalPath()), "Private key files, tried in this order after the agent's")
SSH_CONFIG = Key("config", LocalPath(), "An OpenSSH client configuration; ~/.ssh/config if absent")
SUDO = Key("sudo", Flag(), "Run supervisors' commands through `sudo -n`")
CONNECT_TIMEOUT = Key("connect_timeout", Duration(), "Longest a connection may take: 10s")
SSH = Key(
    "ssh",
    Record((USER, PORT, JUMP, KNOWN_HOSTS, KEYS, SSH_CONFIG, SUDO, CONNECT_TIMEOUT)),
    "How hosts are reached",
)

ADDRESS = Key("address", Text(), "Name or IP address; the host's own name if absent")
HOSTNAME = Key("hostname", Text(), "What %h of a node name is there; the host's name if absent")
HOSTS = Key(
    "hosts",
    MapOf(Record((ADDRESS, HOSTNAME, SSH)), "host"),
    "The machines, by a name of your choice; `local` is always there",
)

NAME = Key("name", PlacedText(), "What to call it", required=True)
STATUS = Key(
    "status",
    ARGV,
    "Exits 0 while the service runs and 3 while it does not; may print pid=, identity=, state=,"
    " since= and clean=, a line each",
    required=True,
)
START = Key("start", ARGV, "Starts it", required=True)
STOP = Key("stop", ARGV, "Stops it with SIGTERM to its main process alone", required=True)
FOLLOW = Key("log", ARGV, "Prints the end of its log, and then what is added to it")
COMMANDS = Key(
    "commands",
    Record((NAME, STATUS, START, STOP, FOLLOW)),
    "Commands of your own, for any other supervisor",
)
SUPERVISED = (
    Key("systemd", PlacedText(), "A systemd unit: celery-worker@1.service"),
    Key("supervisord", PlacedText(), "A supervisord program: name, or group:name"),
    Key("docker", PlacedText(), "A container's name"),
    Key(
        "compose", PlacedText(), "A compose service: project/service; of replicas project/service/2"
    ),
    Key("swarm", PlacedText(), "A swarm service"),
    Key("kubernetes", PlacedText(), "A workload: namespace/deployment"),
    Key("multi", PlacedText(), "A node of `celery multi`, or of `--detach`, with its pidfile"),
)
SUPERVISORS = (*(key.name for key in SUPERVISED), COMMANDS.name)

SERVICE_HOST = Key("host", PlacedText(), "The host it runs on")
SERVICE_HOSTS = Key(
    "hosts",
    ListOf(PlacedText(), least=1),
    "The hosts it runs on, one service each; globs are allowed",
)
WORKER = Key(
    "worker", PlacedText(), "The node name expected there: name@host; %h is the host's name"
)
BEAT = Key("beat", Flag(), "It is a scheduler")
SERVER = Key(
    "server",
    SecretText(),
    "Where supervisord listens: unix:///var/run/supervisor.sock or http://127.0.0.1:9001;"
    " with user:${PASSWORD}@ before the path or host if it asks for one. Or where docker does, if"
    " not at its usual place: unix:///run/user/1000/docker.sock",
)
FILES = Key(
    "files",
    ListOf(PlacedText(), least=1),
    "The compose files, by their paths on the host: a start makes a container that is gone",
)
NODE_START = Key(
    "start", ARGV, "For multi: starts this node alone: [celery, multi, start, w1, -A, proj]"
)
PIDFILE = Key("pidfile", PlacedText(), "For multi: its pidfile, if `start` does not tell it")
LOG = Key("log", PlacedText(), "For multi: its log file, if `start` does not tell it")
OF_A_NODE: tuple[Key[Any], ...] = (NODE_START, PIDFILE, LOG)
SERVICES = Key(
    "services",
    ListOf(
        Record(
            (
                *(SERVICE_HOST, SERVICE_HOSTS, *SUPERVISED, COMMANDS, WORKER, BEAT, SERVER, FILES),
                *OF_A_NODE,
            ),
            one_of=(SUPERVISORS, (SERVICE_HOST.name, SERVICE_HOSTS.name)),
        )
    ),
    "What supervisors run on the hosts",
)

CURRENT_LINK = Key("current", Text(), "The link to the release in use", required=True)
RELEASES = Key("releases", Text(), "The directory with one directory a release", required=True)
TASKS_OF = Key("tasks", ARGV, "Prints the task names of the release in the directory that is added")
SYMLINK = Key(
    "symlink",
    Record((CURRENT_LINK, RELEASES, TASKS_OF)),
    "Releases are directories, one is linked",
)
CURRENT = Key("current", ARGV, "Prints the release in use", required=True)
ACTIVATE = Key("activate", ARGV, "Switches to the release named by its last word", required=True)
EXISTS = Key("exists", ARGV, "Exits 0 if the release named by its last word is there")
LISTED = Key("releases", ARGV, "Prints the releases there are, one a line, from old to new")
TASKS = Key("tasks", ARGV, "Prints the task names of the release named by its last word")
RELEASE_COMMANDS = Key(
    "commands",
    Record((CURRENT, ACTIVATE, EXISTS, LISTED, TASKS)),
    "Releases are what these commands say",
)
IMAGE_NAME = Key("name", PlacedText(), "The image, without a tag: registry/app", required=True)
ENV_FILE = Key(
    "env_file",
    PlacedText(),
    "The file of variables that compose reads, by its path on the host: /srv/app/.env",
    required=True,
)
VARIABLE = Key(
    "variable",
    PlacedText(),
    "The variable in it that has the tag: TAG, for `image: registry/app:${TAG}` in compose's file",
    required=True,
)
IMAGE = Key(
    "image",
    Record(
        (IMAGE_NAME, ENV_FILE, VARIABLE, TASKS),
        example="write {name: registry/app, env_file: /srv/app/.env, variable: TAG}",
    ),
    "Releases are tags of this container image, and a variable of compose's tells which is in use",
)
RELEASE = Key(
    "release",
    Record(
        (SYMLINK, RELEASE_COMMANDS, IMAGE),
        one_of=((SYMLINK.name, RELEASE_COMMANDS.name, IMAGE.name),),
    ),
    "How a version is told and switched on a host",
)

PROBE_TASK = Key("task", Text(), "A task that does no harm", required=True)
PROBE_QUEUES = Key("queues", ListOf(Text(), least=1), "Where it is sent", required=True)
PROBE_TIMEOUT = Key("timeout", Duration(), "Longest until its result: 10s")
PROBE = Key(
    "probe",
    Record((PROBE_TASK, PROBE_QUEUES, PROBE_TIMEOUT)),
    "A task that proves that a queue works end to end",
)

BROKER = Key(
    "broker", SecretText(), "Any kombu URL; ${NAME} is an environment variable", required=True
)
BROKER_OPTIONS = Key("broker_options", Options(), "kombu's transport options, as the workers have")
MANAGEMENT = Key(
    "management",
    SecretText(),
    "RabbitMQ's management API, for what AMQP does not tell: http://user:password@host:15672;"
    " without a user it is the broker's own",
)
RESULTS = Key("results", SecretText(), "The result backend's URL, for results and tracebacks")
APP = Key("app", Text(), "module:app, for what needs the code itself: schedules, routes")
SCOPE = Key("scope", ListOf(Text(), least=1), "Globs of the node names that are ours")
PROTECTED = Key("protected", Flag(), "Changes ask for the context's name")
READ_ONLY = Key("read_only", Flag(), "Nothing can be changed")
ACCEPT_PICKLE = Key("accept_pickle", Flag(), "Read pickled replies, plain values only")
CONTROL_EXCHANGE = Key("control_exchange", Text(), "Celery's control_exchange, if it was changed")
EVENT_EXCHANGE = Key("event_exchange", Text(), "Celery's event_exchange, if it was changed")
MASK = Key(
    "mask",
    ListOf(Text(), least=1),
    "Further names of arguments whose values are never shown, beside password, token, card and"
    " the like: globs, in any case. What has no name, a positional argument, is not masked.",
)

CONTEXT = Record(
    (
        BROKER,
        BROKER_OPTIONS,
        MANAGEMENT,
        RESULTS,
        APP,
        SCOPE,
        PROTECTED,
        READ_ONLY,
        ACCEPT_PICKLE,
        CONTROL_EXCHANGE,
        EVENT_EXCHANGE,
        MASK,
        SSH,
        HOSTS,
        SERVICES,
        RELEASE,
        PROBE,
    )
)
DEFAULT = Key("default", PlacedText(), "The context to use when none is named")
CONTEXTS = Key(
    "contexts", MapOf(CONTEXT, "context", least=1), "The deployments, by name", required=True
)
FILE = Record((DEFAULT, CONTEXTS))
