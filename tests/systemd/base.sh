#!/bin/bash
# Makes the root file system of one Debian suite that the tests boot, unless it is there already, and prints
# its path. Progress goes to stderr.
#
#   base.sh SUITE
#
# Needs root on Debian. The packages come from the mirror that this machine's own apt uses, or from
# PAYLOAD_TEST_MIRROR. The result is kept in ${XDG_CACHE_HOME:-~/.cache}/payload-systemd/, outside the checkout;
# deleting that folder is safe at any time when no test runs.
set -euo pipefail

# Goes up when what this script puts into a root changes.
recipe=1
suite=$1
cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/payload-systemd
root=$cache/$suite-$recipe

say() { echo "tests/systemd: $*" >&2; }

install_tools() {
    local missing=()
    command -v debootstrap >/dev/null || missing+=(debootstrap)
    command -v systemd-nspawn >/dev/null || missing+=(systemd-container)
    [ ${#missing[@]} -eq 0 ] && return
    say "installing ${missing[*]}"
    local apt=(apt-get -o DPkg::Lock::Timeout=300 -qq)
    DEBIAN_FRONTEND=noninteractive "${apt[@]}" install -y --no-install-recommends "${missing[@]}" >&2 && return
    "${apt[@]}" update >&2
    DEBIAN_FRONTEND=noninteractive "${apt[@]}" install -y --no-install-recommends "${missing[@]}" >&2
}

# The archives of apt's sources, one a line, the likeliest first. Security and foreign archives carry no base system.
mirrors() {
    if [ -n "${PAYLOAD_TEST_MIRROR:-}" ]; then
        echo "$PAYLOAD_TEST_MIRROR"
        return
    fi
    find /etc/apt/sources.list /etc/apt/sources.list.d -type f \( -name '*.list' -o -name '*.sources' \) \
        -exec grep -hE '^[[:space:]]*(deb[[:space:]]|URIs:)' {} + 2>/dev/null |
        grep -oE 'https?://[^] ]+' | sed 's,/*$,,' | grep -E '/debian(/|$)' | awk '!seen[$0]++' || true
}

bootstrap() {
    local mirror=$1 into=$2
    eval "$(apt-config shell http_proxy Acquire::http::Proxy https_proxy Acquire::https::Proxy)"
    export http_proxy https_proxy
    debootstrap --variant=minbase \
        --include=systemd,systemd-sysv,systemd-container,dbus,libnss-systemd,python3,curl,iproute2,procps \
        "$suite" "$into" "$mirror" >"$into.log" 2>&1
}

# Less to boot, nothing that differs from run to run, and a machine id of its own for each boot.
settle() {
    local into=$1 unit
    for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer \
        systemd-tmpfiles-clean.timer console-getty.service getty.target systemd-logind.service \
        systemd-udevd.service systemd-udev-trigger.service systemd-networkd.service systemd-networkd.socket \
        systemd-timesyncd.service systemd-resolved.service systemd-update-utmp.service \
        systemd-update-utmp-runlevel.service ldconfig.service systemd-journal-catalog-update.service \
        systemd-update-done.service systemd-firstboot.service systemd-machine-id-commit.service \
        tmp.mount run-lock.mount var-lib-machines.mount dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount \
        sys-kernel-tracing.mount; do
        ln -sf /dev/null "$into/etc/systemd/system/$unit"
    done
    ln -sfn /usr/lib/systemd/system/multi-user.target "$into/etc/systemd/system/default.target"
    : >"$into/etc/machine-id"
    echo payload-test >"$into/etc/hostname"
    chroot "$into" journalctl --update-catalog
    rm -rf "$into/var/cache/apt/archives" "$into"/var/lib/apt/lists/* "$into/usr/share/man" "$into/usr/share/doc"
}

if [ ! -d "$root" ] || ! command -v systemd-nspawn >/dev/null; then
    mkdir -p "$cache"
    exec {lock}>"$cache/lock"
    flock "$lock"
    install_tools
fi
if [ ! -d "$root" ]; then
    found=$(mirrors)
    [ -n "$found" ] || { say "apt's sources name no Debian archive; set PAYLOAD_TEST_MIRROR"; exit 1; }
    # What an earlier, killed run left behind.
    rm -rf "$cache/$suite-$recipe".new*
    for mirror in $found; do
        new=$cache/$suite-$recipe.new$$
        say "making a $suite root from $mirror, about a minute, once"
        if bootstrap "$mirror" "$new"; then
            settle "$new"
            mv "$new" "$root"
            rm -f "$new.log"
            break
        fi
        say "debootstrap of $suite from $mirror failed:"
        tail -n 5 "$new.log" >&2
        rm -rf --one-file-system "$new"
    done
    [ -d "$root" ] || exit 1
fi
echo "$root"
