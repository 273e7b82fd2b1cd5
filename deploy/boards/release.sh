#!/bin/sh
# Releases of the device on this board. As root:
#   release.sh activate RELEASE   switch to it and start it; if it does not start, switch back
#   release.sh rollback           switch to the release that ran before
#   release.sh list               releases, `*` before the current one
# Status 0: done; 1: not possible; 3: it did not start, and the release before runs again; 4: and there is none before:
# systemd goes on trying, since the broker may only be late.
set -eu

unit=spikeleak-client.service root=""
settle_s="${SPIKELEAK_SETTLE_S:-10}" # how long a new release must live
if [ "${1:-}" = --root ]; then root="$2" && shift 2; fi
base="$root/opt/spikeleak"
node="$(sed -n 's/^node=//p' "$base"/releases/*/release 2>/dev/null | head -n 1)"
[ -n "$node" ] || node="$(uname -n)"
say() { echo "$node: $*"; }
named() { basename "$(readlink "$base/$1" 2>/dev/null || echo -)"; }
supervised() { [ -z "$root" ] && [ -d /run/systemd/system ]; }

# A link is replaced in one step: at no time is there no current release.
point() { ln -s "releases/$2" "$base/.$1.new" && mv -T "$base/.$1.new" "$base/$1"; }

start() { # RELEASE: 0 when it runs, or its run is finished
    rm -f "$base/.current.new" "$base/.previous.new"
    point current "$1"
    mkdir -p "$root/etc/systemd/system"
    cp "$base/current/$unit" "$root/etc/systemd/system/$unit"
    supervised || { say "release $1 is current; systemd does not run here: nothing was started"; return 0; }
    systemctl daemon-reload
    systemctl --quiet enable "$unit"
    systemctl stop "$unit" 2>/dev/null || true
    systemctl reset-failed "$unit" 2>/dev/null || true
    began="$(date +%s)"
    systemctl start "$unit" 2>/dev/null || return 1
    waited=0
    while [ "$waited" -lt "$settle_s" ]; do
        sleep 1
        waited=$((waited + 1))
        state="$(systemctl show --property=ActiveState --value "$unit")"
        result="$(systemctl show --property=Result --value "$unit")"
        [ "$state" = active ] || { [ "$state" = inactive ] && [ "$result" = success ]; } || return 1
        [ "$(systemctl show --property=NRestarts --value "$unit")" = 0 ] || return 1
    done
}

reason() { # last words of the device that did not start, or else of systemd
    said="$(journalctl --unit="$unit" --identifier=spikeleak-client --since="@$began" --output=cat --no-pager --quiet \
        2>/dev/null | tail -n 1)"
    [ -z "$said" ] || { echo "$said"; return 0; }
    journalctl --unit="$unit" --since="@$began" --output=cat --no-pager --quiet 2>/dev/null |
        grep -v -e '^Start' -e '^Stopp' -e 'Scheduled restart' -e 'Failed with result' -e 'Main process exited' \
            -e '^Failed to start' -e 'Consumed .* CPU time' |
        tail -n 1
}

activate() {
    [ -f "$base/releases/$1/release" ] || { say "no release $1 here; there are: $(ls "$base/releases")" >&2; exit 1; }
    before="$(named current)"
    if start "$1"; then
        [ "$before" = - ] || [ "$before" = "$1" ] || point previous "$before"
        prune
        ! supervised || say "release $1 runs"
        return 0
    fi
    why="$(reason)"
    if [ "$before" = - ] || [ "$before" = "$1" ]; then
        say "release $1 did not start (${why:-no line in the journal}); there is none before it: systemd goes on trying" >&2
        exit 4
    fi
    if start "$before"; then back=runs; else back="does not start either ($(reason))"; fi
    say "release $1 did not start (${why:-no line in the journal}); rolled back: $before $back" >&2
    exit 3
}

prune() { # all but the current, the one before and the newest three go, with environments that none uses
    for old in $(ls -t "$base/releases" | tail -n +4); do
        [ "$old" = "$(named current)" ] || [ "$old" = "$(named previous)" ] || rm -rf "$base/releases/$old"
    done
    for venv in "$base"/venvs/*; do
        used=no
        for it in "$base"/releases/*/venv; do
            [ "$(basename "$(readlink "$it")")" != "$(basename "$venv")" ] || used=yes
        done
        [ "$used" = yes ] || rm -rf "$venv"
    done
}

case "${1:-}" in
activate)
    [ $# -eq 2 ] || { say "activate wants a release; there are: $(ls "$base/releases")" >&2; exit 1; }
    activate "$2"
    ;;
rollback)
    [ "$(named previous)" != - ] || { say "no release ran before $(named current): nothing to go back to" >&2; exit 1; }
    activate "$(named previous)"
    ;;
list)
    for it in $(ls -t "$base/releases"); do
        if [ "$it" = "$(named current)" ]; then echo "* $it"; else echo "  $it"; fi
    done
    ;;
*)
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 1
    ;;
esac
