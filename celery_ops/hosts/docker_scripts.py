"""What runs on a host to ask and command its docker: POSIX sh, constant, without a line of Python.

Each takes `sudo` or nothing, the socket docker listens at or nothing, and filters for `docker ps`
that find the container; then arguments of its own. They name a container by its id from then on.
"""

from __future__ import annotations

from celery_ops.hosts.containers import LATE, LIFE, PROJECT, SERVICE, STOPS, USUAL_GRACE

UNKNOWN, SEVERAL = 78, 79
"""Exit codes of LOG: the filters find no container, or more than one."""

HEAD = r"""
set -f
sudo=$1 server=$2 filters=$3
shift 3
socket=${server#unix://}
if [ "$(id -u)" = 0 ] || [ -w "${socket:-/var/run/docker.sock}" ]; then sudo=; fi
"""
DOCKER = r"""
set -- docker
if [ -n "$server" ]; then set -- "$@" --host "$server"; fi
if [ -n "$sudo" ]; then set -- sudo -n "$@"; fi
"""
# Without nanoseconds (busybox) docker waits until the second is over: it takes no time that is
# still to come for past.
NOW = r"""
now() {
    now=$(date +%s.%N)
    case $now in *[!0-9.]* | *.) now=$(($(date +%s) + 1)) ;; esac
}
"""
FIND = r"""
ids=$("$@" ps --all --quiet --no-trunc $filters) || exit
"""
STOPPING = (
    r"""
is_stopping() {
    now
    oldest=0
    case $grace in
    -*) ;;
    *) if is_deaf; then oldest=$((${now%.*} - grace - """
    + str(LATE)
    + r""")); fi ;;
    esac
    for one in $("$@" events --since "$started" --until "$now" --filter event=kill \
        --filter "container=$id" --format '{{.TimeNano}}:{{index .Actor.Attributes "signal"}}'); do
        at=${one%:*}
        if [ "${at%?????????}" -lt $oldest ]; then continue; fi
        case ${one##*:} in """
    + " | ".join(str(int(one)) for one in STOPS)
    + r""") return 0 ;; esac
    done
    return 1
}
is_deaf() {
    [ -r "/proc/$pid/status" ] \
        && ! grep -qE '^Sig(Blk|Cgt):.*[4-7c-f][0-9a-f]{3}$' "/proc/$pid/status"
}
"""
)
"""Whether this life was sent a signal that ends it. PID 1 may be deaf to it (it has no handler for
SIGTERM, bit 14): then it is no stop any more when the grace is over, and it still runs."""
ONE = (
    r"""
case $ids in
*"
"*) echo Effect=several; exit ;;
esac
seen=$("$@" container inspect --format '"""
    + LIFE
    + r""" {{.State.Status}} {{.State.Pid}} {{json .Config.StopTimeout}}' "$ids") || exit
id=$ids life=${seen%% *} grace=${seen##* } rest=${seen#* }
state=${rest%% *} started=${life#*:}
rest=${rest#* }
pid=${rest% *}
if [ "$grace" = null ]; then grace="""
    + str(USUAL_GRACE)
    + r"""; fi
"""
)
_LIST = (
    r"""echo Effect=unknown
    exec "$@" ps --all --format 'Name={{.Names}} """
    + f'{{{{.Label "{PROJECT}"}}}}/{{{{.Label "{SERVICE}"}}}}\''
)

LOOK = (
    HEAD
    + "shape=$1\n"
    + DOCKER
    + NOW
    + FIND
    + r"""
printf 'now=%s\n' "$(date +%s)"
[ -n "$ids" ] || exit 0
seen=$("$@" container inspect --format "container=$shape" $ids)
code=$?
printf '%s\n' "$seen"
now
"$@" events --since 87600h --until "$now" --filter event=kill \
    --format 'kill={{.Actor.ID}} {{.TimeNano}} {{index .Actor.Attributes "signal"}}'
pids=
climb() {
    pids="$pids $1"
    children=
    { read -r children < "/proc/$1/task/$1/children"; } 2>/dev/null
    set -- $(($2 - 1)) $children
    if [ "$1" -lt 0 ] || [ $# -gt 6 ]; then return; fi
    for child in $children; do climb "$child" "$1"; done
}
for pid in $(printf '%s\n' "$seen" | sed -n 's/^container={"pid":\([1-9][0-9]*\),.*/\1/p'); do
    climb "$pid" 3
done
files=/dev/null
for pid in $pids; do files="$files /proc/$pid/cmdline /proc/$pid/stat /proc/$pid/status"; done
grep -saHE '' $files | grep -aE '^/proc/[0-9]+/((cmdline|stat):|status:(NSpid|SigBlk|SigCgt):)'
exit $code
"""
)
"""Further argument: how to print a container. Then come its stops, and what runs in it: PID 1 and
what is below, but not the children of whoever has many."""

MAY_ACT = (
    HEAD
    + DOCKER
    + r"""
"$@" ps --quiet > /dev/null || exit
if [ -z "$sudo" ]; then exit 0; fi
shift 2
for verb in start stop; do
    sudo -n -l "$@" "$verb" ID > /dev/null || { echo "sudo: not docker $verb" >&2; exit 1; }
done
"""
)
"""What sudo allows is asked of it."""

STOP = (
    HEAD
    + "expect=$1 gone=$2\n"
    + DOCKER
    + NOW
    + STOPPING
    + FIND
    + 'if [ -z "$ids" ]; then\n    if [ -n "$gone" ]; then exit 0; fi\n    '
    + _LIST
    + "\nfi\n"
    + ONE
    + r"""
case $state in running | paused | restarting) ;; *) exit 0 ;; esac
if [ -n "$expect" ] && [ "$expect" != "$life" ]; then
    printf 'Effect=held\nPid=%s\n' "$pid"
    exit
fi
if is_stopping "$@"; then exit 0; fi
said=/dev/null
if made=$(mktemp 2> /dev/null); then said=$made; trap 'rm -f "$made"' EXIT; fi
setsid "$@" stop "$id" < /dev/null > /dev/null 2> "$said" &
tries=100
while [ -d "/proc/$!" ] && [ $tries -gt 0 ]; do
    if is_stopping "$@"; then exit 0; fi
    tries=$((tries - 1))
    sleep 0.05
done
if [ -d "/proc/$!" ]; then exit 0; fi
wait $! || { code=$?; cat "$said" >&2; exit $code; }
"""
)
"""Further arguments: the life it is meant for (empty: any), and anything where a container that is
gone is as good as one that has stopped. The client is left to wait alone: the
newest daemons end a stop early whose client went away."""

START = (
    HEAD
    + "files=$1 project=$2 service=$3\n"
    + DOCKER
    + NOW
    + STOPPING
    + FIND
    + r"""
if [ -z "$ids" ] && [ -n "$files" ]; then
    if [ -n "$server" ]; then export DOCKER_HOST="$server"; fi
    if docker compose version > /dev/null 2>&1; then set -- docker compose
    else set -- docker-compose; fi
    if [ -n "$sudo" ]; then set -- sudo -n "$@"; fi
    exec "$@" $files --project-name "$project" up --detach --no-deps --no-recreate --no-build \
        "$service"
fi
if [ -z "$ids" ]; then
    """
    + _LIST
    + "\nfi\n"
    + ONE
    + r"""
if [ "$state" = running ]; then
    if is_stopping "$@"; then printf 'Effect=stopping\nPid=%s\n' "$pid"; fi
    exit 0
fi
exec "$@" start "$id"
"""
)
"""Further arguments, if a container that is gone is to be made: compose's files as `--file` words,
project, service. The image of one that is there stays what it is."""

LOG = (
    HEAD
    + "lines=$1\n"
    + DOCKER
    + r"""
from=
while :; do
"""
    + FIND
    + f"""
case $ids in
'') exit {UNKNOWN} ;;
*"
"*) exit {SEVERAL} ;;
esac
"""
    + r"""
if [ -z "$from" ]; then
    began=$("$@" container inspect --format '{{.State.StartedAt}}' "$ids") || exit
fi
"$@" logs --tail 0 "$ids" > /dev/null || exit
"$@" logs --follow --timestamps --tail "$lines" $from "$ids" 2>&1 || exit
ended=$began
while :; do
    sleep 1
    ids=$("$@" ps --quiet --no-trunc $filters) || exit
    case $ids in '' | *"
"*) continue ;; esac
    began=$("$@" container inspect --format '{{.State.StartedAt}}' "$ids" 2> /dev/null)
    if [ "$began" != "$ended" ]; then break; fi
done
lines=all from="--since $began"
done
"""
)
"""Further argument: how many of the last lines. When it has stopped its next life is waited for."""
