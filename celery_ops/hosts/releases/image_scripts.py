"""What runs on a host to tell and switch the tag that compose starts containers with, and to ask an
image for its tasks. POSIX sh, constant, as `docker_scripts`.
"""

from __future__ import annotations

from celery_ops.hosts import docker_scripts
from celery_ops.hosts.compose_scripts import COMPOSE
from celery_ops.hosts.releases import looks

_SETTING = r"""
cr=$(printf '\r')
head="[[:blank:]]*\(export[[:blank:]]\{1,\}\)\{0,1\}$variable[[:blank:]]*="
end="\([[:blank:]]\{1,\}#.*\)\{0,1\}[[:blank:]]*$cr\{0,1\}\$"
tag_in() { sed -n "s/^$head[[:blank:]]*\([\"']\{0,1\}\)\([A-Za-z0-9._-]*\)\2$end/tag=\3/p" "$1"; }
setting() {
    if [ ! -e "$1" ]; then echo set=nowhere
    elif [ ! -f "$1" ] || [ ! -r "$1" ]; then echo set=unreadable
    else
        printf 'set=%s\n%s\n' "$(grep -c "^$head" "$1")" "$(tag_in "$1")"
    fi
}
"""
"""`setting FILE` prints how often a file sets the `variable`, and each value that can be a tag: of
what else stands in that file, nothing is."""

LOOK = (
    docker_scripts.HEAD
    + "image=$1 env_file=$2 variable=$3\nshift 3\npids=$*\n"
    + docker_scripts.DOCKER
    + _SETTING
    + r"""
images=$("$@" image ls --no-trunc --format 'image={{.Tag}} {{.ID}} {{.CreatedAt}}' "$image") || exit
printf '%s\n' "$images"
setting "$env_file"
ids=
for pid in $pids; do
    id=$(grep -oE '[0-9a-f]{64}' "/proc/$pid/cgroup" 2> /dev/null | tail -n 1)
    if [ -n "$id" ]; then
        printf 'in=%s %s\n' "$pid" "$id"
        ids="$ids $id"
    fi
done
if [ -n "$ids" ]; then
    "$@" container inspect --format 'container={{.Id}} {{.Image}} {{.Config.Image}}' $ids \
        2> /dev/null
fi
set -- $pids
"""
    + looks.BEGAN
)
"""Further arguments: the image, the file, the variable, and pids."""

ACTIVATE = (
    docker_scripts.HEAD
    + "image=$1 env_file=$2 variable=$3 release=$4 expect=$5 services=$6\n"
    + docker_scripts.DOCKER
    + _SETTING
    + COMPOSE
    + r"""
if ! "$@" image inspect --format '{{.Id}}' "$image:$release" > /dev/null 2>&1; then
    known=$("$@" image ls --format 'release={{.Tag}}' "$image") || exit
    printf 'effect=missing\n%s\n' "$known"
    exit
fi
env_file=$(readlink -f -- "$env_file")
told=$(setting "$env_file")
case $told in
"set=1
tag="*) now=${told##*tag=} ;;
*) printf 'effect=strange\n%s\n' "$told"; exit ;;
esac
if [ "$now" = "$release" ]; then echo effect=same; exit; fi
if [ -n "$expect" ] && [ "$now" != "$expect" ]; then printf 'effect=held\nnow=%s\n' "$now"; exit; fi
before=$(cksum < "$env_file")
next=$env_file.celery-ops.$$
trap 'rm -f -- "$next"' EXIT
cp -p -- "$env_file" "$next" || exit
sed "s/^\($head[[:blank:]]*[\"']\{0,1\}\)[A-Za-z0-9._-]*/\1$release/" "$env_file" > "$next" || exit
if [ "$(tag_in "$next")" != "tag=$release" ]; then echo effect=unwritten; exit; fi
if [ "$(stat -c '%u %g %a' -- "$env_file")" != "$(stat -c '%u %g %a' -- "$next")" ]; then
    stat -c 'effect=owner
owner=%U:%G' -- "$env_file"
    exit
fi
did=
while read -r project names files; do
    [ -n "$project" ] || continue
    if ! resolve "$next" "$project" "$files" "$names"; then
        printf 'effect=unresolved\nproject=%s\n' "$project"
        printf '%s\n' "$why" >&2
        exit
    fi
    if [ -n "$blank" ]; then
        printf 'effect=blank\nproject=%s\nname=%s\n' "$project" "$blank"
        exit
    fi
    for name in $(printf '%s' "$names" | tr , ' '); do
        would=$(image_of "$name")
        case $would in
        "$image:$release") did=yes ;;
        '' | "$image" | "$image":* | "$image"@*)
            printf 'effect=other\nservice=%s\nimage=%s\n' "$project/$name" "$would"
            exit ;;
        esac
    done
done << EOF
$services
EOF
if [ -z "$did" ]; then echo effect=unused; exit; fi
if [ "$(cksum < "$env_file")" != "$before" ]; then echo effect=raced; exit; fi
sync -- "$next" 2> /dev/null
mv -f -- "$next" "$env_file" || exit
echo effect=done
"""
)
"""Further arguments: the image, the file, the variable, the release, the one that is expected to be
current (empty: any), and services of compose in lines: project, names by commas, `--file` words.
With the new text beside the old compose is asked what it would start; then a rename puts it there.
"""

TASKS = (
    docker_scripts.HEAD
    + "image=$1 release=$2 pid=$3 app=$4 script=$5\n"
    + docker_scripts.DOCKER
    + r"""
if ! "$@" image inspect --format '{{.Id}}' "$image:$release" > /dev/null 2>&1; then
    echo "there is no image $image:$release" >&2
    exit 66
fi
id=$(grep -oE '[0-9a-f]{64}' "/proc/$pid/cgroup" | tail -n 1)
if [ -z "$id" ]; then echo "pid $pid runs in no container" >&2; exit 66; fi
old=$("$@" container inspect --format '{{.Image}}' "$id") || exit
place='{{.Config.WorkingDir}}
{{.Config.User}}
.'
here=$("$@" container inspect --format "$place" "$id") || exit
if [ "$here" = "$("$@" image inspect --format "$place" "$old")" ]; then here=; fi
python=$(tr '\0' '\n' < "/proc/$pid/cmdline" | head -n 1)
case ${python##*/} in python*) ;; *) python=python ;; esac
{
    "$@" image inspect --format '{{json .Config.Env}}' "$old"
    "$@" container inspect --format '{{json .Config.Env}}
{{json .Path}}
{{json .Args}}' "$id"
} | {
    set -- "$@" run --rm --interactive --pull never --network none --log-driver none \
        --volumes-from "$id:ro" --entrypoint "$python"
    user=${here#*
}
    user=${user%%
*}
    if [ -n "${here%%
*}" ]; then set -- "$@" --workdir "${here%%
*}"; fi
    if [ -n "$user" ]; then set -- "$@" --user "$user"; fi
    exec "$@" "$image:$release" -c "$script" "$script" "$app"
}
"""
)
"""Further arguments: the image, the release, the pid of a worker that runs in a container, its
application (empty: as its command line says), and NAMES. The container that is made for it has the
volumes of that worker's, read-only, and no network, and is removed."""

NAMES = (
    r"""
import json, os, sys, threading
script, app = sys.argv[1:3]
if "CELERY_OPS_WORDS" not in os.environ:
    image, container, path, arguments = map(json.loads, sys.stdin)
    given = [entry.partition("=") for entry in container or () if entry not in (image or ())]
    environ = os.environ | {name: value for name, _, value in given}
    environ["CELERY_OPS_WORDS"] = " ".join([path, *(arguments or ())])
    os.execve(sys.executable, [sys.executable, "-c", script, *sys.argv[1:]], environ)
words = os.environ.pop("CELERY_OPS_WORDS").split()
late = threading.Timer(60, os._exit, [75])
late.daemon = True
late.start()
"""
    + looks.TELL_TASKS
)
"""Run by the release's interpreter, with what the worker's container was given beside its image's
own environment: it comes through a pipe, so that nobody reads it in a command line."""
