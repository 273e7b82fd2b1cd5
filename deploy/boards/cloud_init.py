"""cloud-init's user data of one board: its first boot ends with the device installed and running.

Two files beside the bundle, for the boot partition of a card (Raspberry Pi OS from trixie on, Ubuntu for the Pi, any
image with the NoCloud data source): `user-data` and `meta-data`. The bundle is copied into the folder `spikeleak` of
the same partition. No secret stands in the user data, which cloud-init keeps for ever; the key that came with the
bundle is taken off the boot partition as soon as it is installed, since every user can read that file system.

Keys: https://docs.cloud-init.io/en/latest/reference/modules.html
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from contract.errors import ConfigurationError

USER = "spikeleak-admin"
"""Account through which a fleet is deployed; it may become root."""

_KEY = re.compile(r"(ssh-(ed25519|rsa)|ecdsa-sha2-nistp(256|384|521)|sk-\S+) [A-Za-z0-9+/=]+( \S.*)?")
_TEMPLATE = """#cloud-config
# Written by `spikeleak enroll device --cloud-init` for {node}. Onto the boot partition of its card, as `user-data`.
hostname: {host}
manage_etc_hosts: true
timezone: Etc/UTC

# Certificates and rounds want the right time; a Pi has no battery for its clock.
ntp:
  enabled: true
  ntp_client: systemd-timesyncd{servers}

users:
  - name: {user}
    gecos: deployment of spikeleak
    groups: [adm]
    sudo: "ALL=(ALL) NOPASSWD:ALL"
    shell: /bin/bash
    lock_passwd: true{keys}
ssh_pwauth: false
disable_root: true

# Nothing is fetched at first boot: the board may never see another network than its broker's.
package_update: false
package_upgrade: false

write_files:
  - path: /usr/local/sbin/spikeleak-first-boot
    permissions: "0755"
    content: |
      #!/bin/sh
      # Waits for the time, then installs the bundle of the boot partition and takes the key off it.
      for folder in /boot/firmware/spikeleak /boot/spikeleak; do
          [ -f "$folder/install.sh" ] || continue
          for _ in $(seq 60); do
              [ "$(timedatectl show --property=NTPSynchronized --value)" = yes ] && break
              sleep 2
          done
          sh "$folder/install.sh"
          case $? in 0|4) ;; *) exit 1 ;; esac # 4: installed, but the broker is not reached yet
          shred -u "$folder/device.key" 2>/dev/null || rm -f "$folder/device.key"
          exit 0
      done
      echo "no bundle in the folder spikeleak of the boot partition: spikeleak deploy push brings one" >&2

runcmd:
  - [sh, /usr/local/sbin/spikeleak-first-boot]
"""


def user_data(node: str, *, ssh_keys: Sequence[str] = (), ntp_servers: Sequence[str] = ()) -> dict[str, bytes]:
    """The files that a board's first boot reads.

    Args:
        node: The device; also the board's host name, as far as one may be written so.
        ssh_keys: Public keys that may log in as `USER`.
        ntp_servers: Time servers in place of the image's own, for a network without another way out.

    Returns:
        Content by file name.

    Raises:
        ConfigurationError: A line is no public key.
    """
    for key in ssh_keys:
        if not _KEY.fullmatch(key):
            raise ConfigurationError(
                f"--ssh-key: {key[:60]!r} is no public key; name a file such as ~/.ssh/id_ed25519.pub"
            )
    text = _TEMPLATE.format(
        node=node,
        host=json.dumps(host_name(node)),
        user=USER,
        servers=_list("  servers", ntp_servers),
        keys=_list("    ssh_authorized_keys", ssh_keys),
    )
    meta = f"instance-id: {json.dumps(f'spikeleak-{node}')}\nlocal-hostname: {json.dumps(host_name(node))}\n"
    return {"user-data": text.encode(), "meta-data": meta.encode()}


def host_name(node: str) -> str:
    """A device's name as a host name: RFC 1123 has neither `_` nor `.` in a label."""
    return re.sub(r"[^a-z0-9]+", "-", node.lower()).strip("-")


def _list(key: str, values: Sequence[str]) -> str:
    """One key of a YAML map with its list; nothing when that is empty. JSON strings are YAML strings."""
    indent = " " * (len(key) - len(key.lstrip()) + 2)
    return "".join((f"\n{key}:", *(f"\n{indent}- {json.dumps(value)}" for value in values))) if values else ""
