"""A device written from SPEC.md alone, without a disk: updates are a hundredth of the weights, a chunk is forgotten."""

import hashlib
import os
import select
import socket
import struct
import sys
import time
import zlib

NUMBERS = {0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q"}
SIZES = {0xD9: ">B", 0xDA: ">H", 0xDB: ">I", 0xDC: ">H", 0xDD: ">I", 0xDE: ">H", 0xDF: ">I"}
HEADER = struct.Struct("<4sB3xIIQQI16s32s")


def pack(x):
    if x is None or isinstance(x, bool):
        return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[x]
    if isinstance(x, (int, float)):
        return b"\xcf" + struct.pack(">Q", x) if isinstance(x, int) else b"\xcb" + struct.pack(">d", x)
    if isinstance(x, str):
        return b"\xdb" + struct.pack(">I", len(x.encode())) + x.encode()
    if isinstance(x, list):
        return b"\xdd" + struct.pack(">I", len(x)) + b"".join(map(pack, x))
    return b"\xdf" + struct.pack(">I", len(x)) + b"".join(pack(k) + pack(v) for k, v in x.items())


def unpack(data, at=0):
    tag, at = data[at], at + 1
    if tag < 0x80 or tag in {0xC0, 0xC2, 0xC3}:
        return {0xC0: None, 0xC2: False, 0xC3: True}.get(tag, tag), at
    if tag in NUMBERS:
        return struct.unpack_from(NUMBERS[tag], data, at)[0], at + struct.calcsize(NUMBERS[tag])
    string, pairs, items = 0xA0 <= tag < 0xC0 or 0xD9 <= tag <= 0xDB, tag < 0x90 or tag >= 0xDE, []
    size = tag & (0x1F if string else 0x0F)
    if tag in SIZES:
        size, at = struct.unpack_from(SIZES[tag], data, at)[0], at + struct.calcsize(SIZES[tag])
    if string:
        return data[at : at + size].decode(), at + size
    for _ in range(size * (1 + pairs)):
        item, at = unpack(data, at)
        items.append(item)
    return dict(zip(items[::2], items[1::2], strict=True)) if pairs else items, at


def text(part):
    return struct.pack(">H", len(part)) + part


class Device:
    def __init__(self, host, port, run, node):
        self.root, self.node, self.ids = f"spikeleak/v1/{run}/", node, iter(range(1, 65536))
        self.socket = socket.create_connection((host, port))
        self.waiting, self.state, self.task, self.answered, self.parts, self.careless = {}, {}, "", None, {}, {1}
        said = {"type": "NodeState", "node": node, "epoch": 1, "status": "online"}
        will, self.birth = text(pack(said | {"status": "offline"})), pack(said)
        will = text(f"{self.root}node/{node}/state".encode()) + will
        self.packet(0x10, text(b"MQTT") + b"\4\x2e" + b"\0\0" + text(b"second-" + node.encode()) + will)
        self.subscribe("server/state", "task/manifest", f"ack/{node}")

    def packet(self, kind, body):
        size, rest = b"", len(body)
        while rest or not size:
            size, rest = size + bytes([rest % 128 | 128 * (rest > 127)]), rest // 128
        self.socket.sendall(bytes([kind]) + size + body)

    def publish(self, topic, payload, retain=0):
        self.packet(0x32 | retain, text((self.root + topic).encode()) + struct.pack(">H", next(self.ids)) + payload)

    def subscribe(self, *filters):
        packed = b"".join(text((self.root + f).encode()) + b"\1" for f in filters)
        self.packet(0x82, struct.pack(">H", next(self.ids)) + packed)

    def live(self, data=b""):
        while self.state.get("status") != "finished" or self.waiting:
            if select.select([self.socket], [], [], 0.1)[0]:
                data += self.socket.recv(1 << 16) or sys.exit("the broker has closed the connection")
            while size := next((i for i in range(1, min(5, len(data))) if data[i] < 128), 0):
                end = 1 + size + sum((byte & 127) << 7 * i for i, byte in enumerate(data[1 : 1 + size]))
                if end > len(data):
                    break
                if data[0] >> 4 == 3:
                    self.take(data[1 + size : end])
                data = data[end:]
            for uid in [uid for uid, item in self.waiting.items() if item[3] < time.monotonic()]:
                self.send(uid)
        self.socket.close()  # its last will says that it has left

    def take(self, body):
        at = 2 + struct.unpack_from(">H", body)[0]
        self.packet(0x40, body[at : at + 2])
        kind, payload = body[2:at].decode().removeprefix(self.root).split("/")[0], body[at + 2 :]
        if kind == "model" and payload:
            self.take_model(payload)
        elif kind == "task":
            self.task = unpack(payload)[0]["task_hash"]
            self.publish(f"node/{self.node}/state", self.birth, retain=1)
            self.take_state(self.state)
        elif payload:
            (self.take_ack if kind == "ack" else self.take_state)(unpack(payload)[0])

    def take_state(self, state):
        self.state = {"round": 0, "attempt": 0, "selected": [], "model_version": 0, "task_hash": ""} | state
        here = self.node in self.state["selected"] and self.state["task_hash"] == self.task
        if self.state.get("status") == "open" and here and self.answered != (state["round"], state["attempt"]):
            self.subscribe(f"model/{self.state['model_version']}/+")

    def take_model(self, frame):
        _, _, index, count, total, _, _, _, sha = HEADER.unpack_from(frame)
        state, key = self.state, (self.state["round"], self.state["attempt"])
        if sha.hex() == state["model_sha256"] and self.answered != key:
            self.parts[sha, count, index] = frame[84:]
        blob = b"".join(part for name, part in sorted(self.parts.items()) if name[:2] == (sha, count))
        if len(blob) == total and hashlib.sha256(blob).digest() == sha:
            self.answered, self.parts, (model, end) = key, {}, unpack(blob, 4)
            values = struct.unpack(f"<{len(blob[end:]) // 4}f", blob[end:])
            head = {k: state[k] for k in ("round", "model_version", "plan")} | {"tensors": model["tensors"]}
            head |= {"type": "Update", "epoch": 1, "task_hash": self.task, "samples": 1, "loss": None}
            self.keep("up", head, struct.pack(f"<{len(values)}f", *(0.01 * value for value in values)))

    def keep(self, kind, head, tensors=b""):
        packed = pack(head | {"uid": (uid := os.urandom(16).hex()), "node": self.node})
        self.waiting[uid] = (kind, head["round"], struct.pack("<I", len(packed)) + packed + tensors, 0.0, 5)

    def send(self, uid, chunks=None):
        kind, round_, blob, _, wait_s = self.waiting[uid]
        self.waiting[uid] = (kind, round_, blob, time.monotonic() + wait_s, min(2 * wait_s, 60))
        count, sha, topic = -(-len(blob) // 600), hashlib.sha256(blob).digest(), f"{kind}/{self.node}/{round_}"
        for i in sorted(set(chunks or range(count)) - self.careless):
            part = blob[i * 600 : (i + 1) * 600]
            head = (b"SPLK", 1, i, count, len(blob), i * 600, zlib.crc32(part), bytes.fromhex(uid), sha)
            self.publish(topic + f"/{uid}/{i}" * (kind == "up"), HEADER.pack(*head) + part)
        self.careless = set()

    def take_ack(self, ack):
        sys.stdout.write(f"{ack['status']} {ack['uid']} {ack.get('reason', '')}\n")
        if ack["status"] == "missing" and ack["uid"] in self.waiting:
            self.send(ack["uid"], ack.get("missing"))
        elif ack["uid"] in self.waiting:
            kind, round_, blob, _, _ = self.waiting.pop(ack["uid"])
            if kind == "up" and ack["status"] == "admitted":
                reading = {"energy_j": None, "duration_s": 0.0, "provenance": "unavailable", "reason": "no meter"}
                phase = {"phase": "train", "readings": [reading | {"source": "none", "scope": "none"}]}
                head = {"type": "EnergyReport", "update_uid": ack["uid"], "round": round_, "operations": None}
                self.keep("score", head | {"payload_bytes": len(blob), "phases": [phase]})


if __name__ == "__main__":
    Device(sys.argv[1], int(sys.argv[2]), *sys.argv[3:5]).live()
