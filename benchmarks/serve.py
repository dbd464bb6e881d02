"""How long the HTTP service takes to answer many clients at a time, and in how much memory.

    python -m benchmarks.serve --photos PHOTOS --seconds 120

Starts the service with vit_s at its fastest and 16 clients that click on photographs. Prints
percentiles of the answers' times, their status codes, the memory, and the cache's hits and misses.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import requests

from benchmarks.batch import Memory
from expedit_sam.images import find_images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="a folder")
    parser.add_argument("--seconds", type=float, default=120)
    options = parser.parse_args()
    clients(options.photos, options.seconds)


def clients(photos: Path, seconds: float, number: int = 16) -> None:
    """``number`` clients at a time, clicking on 8 photographs; one request in 16 is on any."""
    program = [sys.executable, "-m", "expedit_sam", "serve", "--port", "0", "--speed", "fast"]
    server = subprocess.Popen(program, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    address = server.stdout.readline().split()[-1]
    files = [file.read_bytes() for file in find_images([photos])]
    memory = Memory(server.pid)
    until = time.monotonic() + seconds

    def client(seed: int) -> list[tuple[float, int]]:
        chance = random.Random(seed)
        answers = []
        while time.monotonic() < until:
            chosen = files if chance.random() < 1 / 16 else files[:8]
            prompts = {"points": [[chance.uniform(0, 300), chance.uniform(0, 300)]]}
            started = time.perf_counter()
            response = requests.post(
                address + "masks",
                files={"image": chance.choice(chosen)},
                data={"prompts": json.dumps(prompts)},
                timeout=300,
            )
            answers.append((time.perf_counter() - started, response.status_code))
        return answers

    try:
        with ThreadPoolExecutor(number) as pool:
            answers = [answer for part in pool.map(client, range(number)) for answer in part]
        figures = requests.get(address + "metrics", timeout=60).text
    finally:
        server.terminate()
        server.wait()
    times = np.array([taken for taken, _ in answers])
    codes = {code: sum(c == code for _, c in answers) for _, code in answers}
    percentiles = {p: float(np.percentile(times, p)) for p in (50, 90, 99, 100)}
    print(
        f"{number} clients, {seconds:g} s: {len(answers)} answers {codes}; "
        + ", ".join(f"p{p} {value:.2f} s" for p, value in percentiles.items())
        + f"; {memory.by_quarters()}"
    )
    print(*(line for line in figures.splitlines() if "cache" in line and line[0] != "#"), sep="\n")


if __name__ == "__main__":
    main()
