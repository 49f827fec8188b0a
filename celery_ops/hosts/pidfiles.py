"""The scripts for nodes with a pidfile: what runs on their host, in POSIX sh with /proc."""

from __future__ import annotations

from celery_ops.hosts import begun

_LOOK = (
    begun.LIBRARY
    + r"""
is_node() {
    words=" $(tr '\000\n' '  ' < "/proc/$1/cmdline" 2>/dev/null)"
    case $words in
    *celery*" -n $name@"*|*celery*" -n $name "*|*celery*"--hostname=$name@"*) [ -z "$beat" ] ;;
    *celery*"--hostname=$name "*|*celery*"--hostname $name"[@\ ]*) [ -z "$beat" ] ;;
    *"[celeryd: $name@"*) [ -z "$beat" ] ;;
    *celery*" beat "*|*"[celery beat]"*) [ -n "$beat" ] ;;
    *) false ;;
    esac
}
look() {
    pid= alive= kind=
    folder=${1%/*}
    if [ ! -e "$1" ]; then
        [ -d "$folder" ] && [ ! -x "$folder" ] && kind=closed
        return
    fi
    { read -r pid rest < "$1"; } 2>/dev/null
    case $pid in
    ''|*[!0-9]*) pid=; [ -e "$1" ] && kind=unreadable; return ;;
    esac
    kind=gone
    if alive=$(life "$pid"); then
        kind=stranger
        is_node "$pid" && kind=node
    else
        case $(LC_ALL=C kill -0 "$pid" 2>&1) in *permitted*) kind=hidden ;; esac
    fi
}
"""
)
"""`look PIDFILE` says in `kind` what is there: nothing; closed, unreadable, hidden to us; gone; a
stranger; or the node, whose life is then `alive`."""

STATUS = (
    _LOOK
    + begun.CLOCK
    + r"""
sed 's/^/root=/' /proc/1/cgroup
sed 's/^/mine=/' /proc/self/cgroup
grep -hs '^KillUserProcesses=' /etc/systemd/logind.conf /etc/systemd/logind.conf.d/*.conf
id -u | sed 's/^/uid=/'
shift
while [ $# -gt 3 ]; do
    key=$1 pidfile=$2 name=$3 beat=$4
    shift 4
    look "$pidfile"
    printf 'node=%s\nkind=%s\npid=%s\nlife=%s\n' "$key" "$kind" "$pid" "$alive"
    if [ "$kind" = gone ] && [ "$pidfile" -nt "$room/$key.job" ]; then echo newer=yes; fi
    if [ "$kind" = node ]; then
        if kill -0 "$pid" 2>/dev/null; then echo may=yes; fi
        sed 's/^/group=/' "/proc/$pid/cgroup" 2>/dev/null
        tr '\000' '\n' < "/proc/$pid/environ" 2>/dev/null | grep '^REMAP_SIGTERM=SIG[A-Z]*$'
    fi
    tell
done
exit 0
"""
)
"""Arguments: the folder for notes, and of each node its key, pidfile, name, and `beat` or nothing.
"""

STOP = (
    _LOOK
    + r"""
key=$2 pidfile=$3 name=$4 beat=$5 expect=$6 sudo=$7
look "$pidfile"
printf 'kind=%s\npid=%s\n' "$kind" "$pid"
case $kind in
node) ;;
''|gone) exit 0 ;;
*) echo Effect=left; exit 0 ;;
esac
if [ -n "$expect" ] && [ "$alive" != "$expect" ]; then echo Effect=another; exit 0; fi
recall
if [ "$verb $begun" = "stop $alive" ]; then exit 0; fi
owner=$(sed -n 's/^Uid:[^0-9]*\([0-9]*\).*/\1/p' "/proc/$pid/status")
me=$(id -u)
if [ -n "$sudo" ] && [ "$me" != 0 ] && [ "$me" != "$owner" ]; then
    said=$(sudo -n -u "#$owner" kill -s TERM "$pid" 2>&1)
else
    said=$(kill -s TERM "$pid" 2>&1)
fi || { printf 'Effect=refused\nsaid=%s\n' "$said"; exit 0; }
if enter; then
    rm -f "$room/$key.code"
    printf 'stop %s\n' "$alive" > "$room/$key.job"
fi
"""
)
"""Arguments: the folder for notes; a node as STATUS has it; the life it is meant for (empty: any),
and `sudo` where that may be used to become its owner."""

START = (
    _LOOK
    + r"""
key=$2 pidfile=$3 name=$4 beat=$5
shift 5
look "$pidfile"
printf 'kind=%s\npid=%s\n' "$kind" "$pid"
recall
case $kind in
node) [ "$verb $begun" = "stop $alive" ] && echo Effect=stopping; exit 0 ;;
''|gone) ;;
*) echo Effect=left; exit 0 ;;
esac
if goes_on start; then exit 0; fi
begin start "$@"
"""
)
"""Arguments: the folder for notes, a node as STATUS has it, and the argv that starts it."""

LOG = """\
if [ ! -r "$1" ]; then ls -ld -- "$1" >&2; exit 66; fi
exec tail -n "$2" -F -- "$1"
"""
NO_LOG = 66
"""The exit code of LOG where the log cannot be read."""
