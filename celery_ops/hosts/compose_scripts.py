"""What runs on a host where releases are tags of an image: it asks compose what it would start, and
makes a container anew when that is another image. POSIX sh, constant, as `docker_scripts`.
"""

from __future__ import annotations

from celery_ops.hosts import begun, docker_scripts

COMPOSE = r"""
if docker compose version > /dev/null 2>&1; then generation=2; else generation=1; fi
compose() {
    if [ $generation = 2 ]; then set -- compose "$@"; fi
    if [ -n "$server" ]; then set -- --host "$server" "$@"; fi
    if [ $generation = 2 ]; then set -- docker "$@"; else set -- docker-compose "$@"; fi
    if [ -n "$sudo" ]; then set -- sudo -n "$@"; fi
    env -u "$variable" "$@" < /dev/null
}
told() { sed 's/ near ".*//' "$1" | tail -c 600; }
resolve() {
    asked=
    if [ $generation = 2 ]; then asked=$(printf '%s' "$4" | tr , ' '); fi
    said=$(mktemp) || exit
    resolved=$(compose --env-file "$1" $3 --project-name "$2" config $asked 2> "$said")
    code=$?
    why=$(told "$said")
    blank=$(sed -n 's/.*The [\\"]*\([A-Za-z0-9_]*\)[\\"]* variable is not set.*/\1/p' "$said" \
        | head -n 1)
    rm -f "$said"
    return $code
}
familiar() { one=${1#docker.io/}; printf '%s' "${one#library/}"; }
image_of() {
    found=$(printf '%s\n' "$resolved" | awk -v name="$1" '
        /^[^ ]/ { within = ($0 == "services:") }
        within && /^  [^ ]/ { key = $0; gsub(/[ :"\047]/, "", key); mine = (key == name) }
        within && mine && /^    image: / { gsub(/["\047]/, "", $2); print $2 }')
    familiar "$found"
}
"""
"""Expects `sudo` and `server` as `docker_scripts` has them, and the `variable` that no environment
but the file's may set. `resolve ENV_FILE PROJECT FILES SERVICES` (by commas) has compose read its
files; then `blank` are variables that nobody sets, `why` is what it said, and `image_of SERVICE`
prints what would be started. Parsers of such files quote what they cannot read: that is cut off.
"""

MAKE = (
    docker_scripts.HEAD
    + "env_file=$1 variable=$2 files=$3 project=$4 service=$5 id=$6\n"
    + COMPOSE
    + docker_scripts.DOCKER
    + r"""
if [ -n "$id" ]; then
    state=$("$@" container inspect --format '{{.State.Status}}' "$id") || exit
    if [ "$state" = running ]; then
        timeout 60 "$@" wait "$id" > /dev/null || exit 0
        state=restarting
    fi
    if [ "$state" = restarting ]; then set -- "$@" rm --force; else set -- "$@" rm; fi
    "$@" "$id" > /dev/null || exit
fi
pull=
if [ $generation = 2 ] && compose up --help | grep -q -- '--pull '; then pull='--pull never'; fi
compose --env-file "$env_file" $files --project-name "$project" up --detach --no-deps \
    --no-recreate --no-build $pull --scale "$service=1" "$service"
"""
)
"""Removes the container `id`, which docker refuses while it runs, and makes one of the image that
compose's files name now. Nothing is pulled: who runs this has looked that the image is there.

One that dies again and again is removed when it has died; one that lives on for a minute stays."""

RENEW = (
    docker_scripts.HEAD
    + "env_file=$1 variable=$2 image=$3 files=$4 project=$5 service=$6 key=$7 make=$8\n"
    + "set --\n"
    + begun.LIBRARY
    + COMPOSE
    + docker_scripts.DOCKER
    + docker_scripts.NOW
    + docker_scripts.STOPPING
    + docker_scripts.FIND
    + r"""
cannot() {
    if [ "$state" != running ]; then printf "$@"; fi
    exit
}
id= state=
if [ -n "$ids" ]; then
"""
    + docker_scripts.ONE
    + r"""
    case $state in
    running)
        if is_stopping "$@"; then
            printf 'Effect=stopping\nPid=%s\n' "$pid"
            exit
        fi
        restarts=$("$@" container inspect --format '{{.RestartCount}}' "$id")
        if [ "${restarts:-0}" = 0 ]; then exit 0; fi ;;
    paused) exec "$@" start "$id" ;;
    esac
fi
if goes_on start; then exit 0; fi
if ! resolve "$env_file" "$project" "$files" "$service"; then
    printf '%s\n' "$why" >&2
    cannot 'Effect=unresolved\n'
fi
if [ -n "$blank" ]; then cannot 'Effect=blank\nVariable=%s\n' "$blank"; fi
wanted=$(image_of "$service")
case $wanted in
"$image":*) ;;
*) if [ -n "$id" ]; then exec "$@" start "$id"; fi ;;
esac
if ! wants=$("$@" image inspect --format '{{.Id}}' "$wanted" 2> /dev/null); then
    cannot 'Effect=imageless\nImage=%s\n' "$wanted"
fi
if [ -n "$id" ]; then
    has=$("$@" container inspect --format '{{.Image}} {{.Config.Image}}' "$id") || exit
    if [ "${has%% *}" = "$wants" ] && [ "$(familiar "${has#* }")" = "$wanted" ]; then
        exec "$@" start "$id"
    fi
fi
begin start sh -c "$make" celery-ops "$sudo" "$server" '' "$env_file" "$variable" "$files" \
    "$project" "$service" "$id"
tries=100
while [ $tries -gt 0 ] && goes_on start; do
    tries=$((tries - 1))
    sleep 0.1
done
recall
if [ "${code:-0}" != 0 ]; then
    told "$room/$key.out" >&2
    exit "$code"
fi
"""
)
"""Further arguments: the file of variables and which one has the tag, the image, compose's files as
`--file` words, project, service, what its notes are called, and MAKE. A container that was made of
the image that is wanted is started again as it is. Else it is made anew, in the background: what
cuts this off does not leave the service without one. What runs is left alone, unless it has died
before and so may die again: docker would start it again with the image that it has."""
