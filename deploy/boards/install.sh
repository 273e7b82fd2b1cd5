#!/bin/sh
# Installs one device from the folder that this script lies in; nothing comes from a network. As root, on the board:
#   sh install.sh            install, start, and go back to the release before if it does not start
#   sh install.sh --stage    install only; release.sh activate RELEASE does the rest
#   sh install.sh --root DIR install below DIR instead of /, and start nothing
# Status 0: done; 1: this board cannot take it, which the message explains; 3 and 4: as release.sh says.
set -eu

root="" stage=no
while [ $# -gt 0 ]; do
    case "$1" in
    --stage) stage=yes ;;
    --root)
        [ $# -ge 2 ] || { echo "install.sh: --root wants a folder" >&2; exit 1; }
        root="$2" && shift
        ;;
    *)
        sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
        exit 1
        ;;
    esac
    shift
done

cd "$(dirname "$0")"
[ -f release ] || { echo "install.sh: no file 'release' beside it: run it from a device's bundle" >&2; exit 1; }
field() { sed -n "s/^$1=//p" release; }
node="$(field node)" release="$(field release)" wheels="$(field wheels)" machine="$(field machine)"
python="python$(field python)" need_kib="$(field need_kib)" made="$(field made)"
refuse() { echo "$node: $*" >&2; exit 1; }

sha256sum --check --quiet SHA256SUMS || {
    rm -f ./*.there # the next push brings all of it
    refuse "bundle is damaged (above): copy it again"
}

here="$(uname -m)"
[ "$here" = "$machine" ] ||
    refuse "architecture: this board is $here, the wheels are for $machine: give it a bundle made with --wheelhouse $here, or a 64-bit system"
command -v "$python" >/dev/null || refuse "$python is not installed: apt install $python, or a bundle made with --python of what is here"
platform="$("$python" -c 'import sysconfig; print(sysconfig.get_platform())')"
[ "$platform" = "linux-$machine" ] ||
    refuse "architecture: $python is $platform, the wheels are for linux-$machine: install a 64-bit system"
now="$(date +%s)"
[ "$now" -ge "$((made - 60))" ] ||
    refuse "clock: it says $(date -u +%FT%TZ), before this bundle was made: certificates would be refused; timedatectl set-ntp true"

base="$root/opt/spikeleak" etc="$root/etc/spikeleak"
umask 022
mkdir -p "$base/releases" "$base/venvs" "$base/data" "$etc"
chmod 755 "$base" # the device runs as an account of its own, which reads all of it
free_kib="$(df -Pk "$base" | awk 'NR == 2 { print $4 }')"
[ "$free_kib" -ge "$need_kib" ] || [ -f "$base/venvs/$wheels/complete" ] ||
    refuse "disk: $base has $free_kib KiB free, $need_kib KiB are needed: remove what is not needed, or take a larger card"

# Another release with the same wheels shares their environment.
venv="$base/venvs/$wheels"
if [ ! -f "$venv/complete" ]; then
    rm -rf "$venv"
    "$python" -m venv --without-pip "$venv"
    pip="$(echo wheels/pip-*.whl)"
    PIP_CONFIG_FILE=/dev/null "$venv/bin/python" "$pip/pip" --isolated install --quiet --no-index --find-links wheels \
        --no-cache-dir --disable-pip-version-check --root-user-action=ignore --require-hashes --requirement requirements.txt ||
        refuse "wheels cannot be installed (above)"
    touch "$venv/complete"
fi
"$venv/bin/spikeleak-client" --check device.toml || refuse "device.toml cannot be used (above)"

umask 077
cp ca.pem device.pem "$etc/" && chmod 644 "$etc/ca.pem" "$etc/device.pem"
cp device.key "$etc/.device.key" && mv "$etc/.device.key" "$etc/device.key"
umask 022
for file in data/*; do
    [ -e "$file" ] || continue
    cmp -s "$file" "$base/$file" || { cp "$file" "$base/data/.new" && mv "$base/data/.new" "$base/$file"; }
done
new="$base/releases/$release"
if [ ! -f "$new/release" ]; then
    rm -rf "$new.part" && mkdir -p "$new.part"
    cp release device.toml spikeleak-client.service README.txt "$new.part/"
    ln -s "../../venvs/$wheels" "$new.part/venv"
    mv "$new.part" "$new"
fi
cp release.sh "$base/.release.sh" && chmod 755 "$base/.release.sh" && mv "$base/.release.sh" "$base/release.sh"
echo "$node: release $release installed in $new"
[ "$stage" = no ] || exit 0
exec sh "$base/release.sh" ${root:+--root "$root"} activate "$release"
