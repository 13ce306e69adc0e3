"""Many streaming clients at once: no stream is lost, memory stays bounded, and clients that vanish free their places.

Usage: load.py http://127.0.0.1:8080 [--clients 1000] [--vanish 200] [--tokens 24] [--pid PID]

Python's standard library only: a client is a socket.
"""

import argparse
import asyncio
import json
import time
import urllib.parse
import urllib.request

parser = argparse.ArgumentParser()
parser.add_argument("address")
parser.add_argument("--clients", type=int, default=1000)
parser.add_argument("--vanish", type=int, default=200, help="how many more leave after their first words")
parser.add_argument("--tokens", type=int, default=24)
parser.add_argument("--pid", type=int, help="the server's process, to watch its memory")
arguments = parser.parse_args()
place = urllib.parse.urlparse(arguments.address)


def metric(name):
    with urllib.request.urlopen(arguments.address + "/metrics") as reply:
        lines = reply.read().decode().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"opencharacter_{name} ")))


def resident():
    if not arguments.pid:
        return 0
    with open(f"/proc/{arguments.pid}/status") as status:
        return next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmRSS"))


async def client(number, vanishes):
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    body = json.dumps({
        "messages": [{"role": "user", "content": f"Tell me about the number {number}."}], "stream": True,
        "max_tokens": arguments.tokens, "seed": number,
    }).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {place.netloc}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    writer.write(head.encode() + body)
    started, first, text = time.monotonic(), None, b""
    while piece := await reader.read(65536):
        text += piece
        if first is None and b'"content":"' in text.replace(b'"content":""', b""):
            first = time.monotonic() - started
            if vanishes:
                writer.transport.abort()
                return "vanished", first, 0
    writer.close()
    return ("whole" if b"data: [DONE]" in text else text[:200].decode(errors="replace")), first, time.monotonic() - started


async def main():
    peak = resident()
    print(f"before: {peak} MiB")
    tasks = [asyncio.create_task(client(number, number % 6 == 5 and number // 6 < arguments.vanish))
             for number in range(arguments.clients + arguments.vanish)]
    started = time.monotonic()
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0.5)
        peak = max(peak, resident())
    seconds = time.monotonic() - started
    results = [task.result() for task in tasks]
    whole = [result for result in results if result[0] == "whole"]
    vanished = [result for result in results if result[0] == "vanished"]
    other = [result[0] for result in results if result[0] not in ("whole", "vanished")]
    firsts = sorted(result[1] for result in whole if result[1] is not None)
    print(f"{len(whole)} whole, {len(vanished)} vanished, {len(other)} lost {other[:2]}; {seconds:.1f} s; "
          f"first words after {firsts[len(firsts) // 2]:.1f} s (median), {firsts[-1]:.1f} s (last); peak {peak} MiB")
    assert not other and len(whole) == arguments.clients, "a stream was lost"
    for _ in range(100):
        if metric("open_answers") == 0:
            break
        await asyncio.sleep(0.1)
    assert metric("open_answers") == 0, "who vanished still has a place"
    print("passed")


asyncio.run(main())
