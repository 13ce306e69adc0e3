"""Writes the binary files of bad_input: `python3 make_bad_input.py`. Standard library only.

The files are committed; what each must say stands beside it in NAME.expected.
"""

import base64
import io
import json
import struct
import zipfile
import zlib
from pathlib import Path

HERE = Path(__file__).parent / "bad_input"
CARD = {
    "spec": "chara_card_v2",
    "spec_version": "2.0",
    "data": {"name": "Mira", "description": "Keeper.", "personality": "", "scenario": "", "first_mes": "Hm.", "mes_example": ""},
}


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*texts: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0\xff\x80\x00")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + b"".join(texts) + chunk(b"IEND", b"")


def text(payload: bytes, keyword: bytes = b"chara") -> bytes:
    return chunk(b"tEXt", keyword + b"\0" + payload)


def packed_zeros(size: int) -> bytes:
    packer = zlib.compressobj(9)
    return b"".join([packer.compress(bytes(1 << 20)) for _ in range(size >> 20)]) + packer.flush()


def archive(files: dict[str, bytes]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as writer:
        for name, content in files.items():
            writer.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return target.getvalue()


def main() -> None:
    whole = base64.b64encode(json.dumps(CARD).encode())
    card = json.dumps(CARD).encode()
    good = png(text(whole))
    files = {
        "truncated.png": good[:-30],
        "truncated_in_a_length.png": good[: 8 + 25 + 6],
        "no_end.png": good[:-12],
        "length_of_four_gigabytes.png": good[:33] + b"\xff\xff\xff\xff" + good[37:],
        "bad_checksum.png": good.replace(whole[:8], b"AAAAAAAA", 1),
        "bad_checksum_of_pixels.png": good[:45] + bytes([good[45] ^ 1]) + good[46:],
        "no_header.png": b"\x89PNG\r\n\x1a\n" + chunk(b"IEND", b""),
        "only_the_signature.png": b"\x89PNG\r\n\x1a\n",
        "no_card.png": png(text(b"hello", b"Comment")),
        "bad_base64.png": png(text(b"eyJuYW1lIjogI*k1pcmEifQ==")),
        "invalid_utf8.png": png(text(base64.b64encode(card.replace(b"Mira", b"\xff\xfe")))),
        "not_json.png": png(text(base64.b64encode(b"name: Mira"))),
        "half_a_json.png": png(text(base64.b64encode(card[:60]))),
        "hundred_megabytes_of_zeros.png": png(chunk(b"zTXt", b"chara\0\0" + packed_zeros(100 << 20))),
        "hundred_megabytes_in_itxt.png": png(chunk(b"iTXt", b"chara\0\x01\0\0\0" + packed_zeros(100 << 20))),
        "broken_ztxt.png": png(chunk(b"zTXt", b"chara\0\0not zlib")),
        "short_itxt.png": png(chunk(b"iTXt", b"chara\0\x01")),
        "no_bytes.png": b"",
        "picture_of_another_kind.png": b"GIF89a\x01\x00\x01\x00",
        "truncated.charx": archive({"card.json": card})[:-40],
        "no_card.charx": archive({"Mira/card.json": card}),
        "zip_bomb.charx": archive({"card.json": bytes(100 << 20)}),
        "path_traversal.charx": archive({"card.json": card, "../../.ssh/authorized_keys": b"x"}),
        "absolute_path.charx": archive({"card.json": card, "/etc/passwd": b"x"}),
        "windows_path.charx": archive({"card.json": card, "assets\\..\\..\\x.dll": b"x"}),
        "drive.charx": archive({"card.json": card, "C:/x": b"x"}),
        "control_character.charx": archive({"card.json": card, "assets/a\nb": b"x"}),
        "damaged_card.charx": archive({"card.json": card}).replace(card[:20], b"?" * 20),
        "invalid_utf8.json": card.replace(b"Mira", b"\xff\xfe"),
        "utf16.json": json.dumps(CARD).encode("utf-16"),
    }
    # Says that it unpacks to 3 GiB, as a bomb made of overlapping files does.
    bomb = archive({"card.json": card, "assets/a.bin": bytes(1000)})
    where = bomb.rindex(b"PK\x01\x02") + 24
    files["says_three_gigabytes.charx"] = bomb[:where] + struct.pack("<I", 3 << 30) + bomb[where + 4 :]
    # Says that it is encrypted.
    locked = bytearray(archive({"card.json": card}))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        locked[locked.index(mark) + offset] |= 1
    files["encrypted.charx"] = bytes(locked)
    # Packed in a way that is not read.
    method = bytearray(archive({"card.json": card}))
    for mark, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        method[method.index(mark) + offset] = 99
    files["unknown_packing.charx"] = bytes(method)
    # The stored content is damaged.
    damaged = bytearray(archive({"card.json": card}))
    damaged[60] ^= 0xFF
    files["damaged_card.charx"] = bytes(damaged)
    for name, content in files.items():
        (HERE / name).write_bytes(content)


if __name__ == "__main__":
    main()
