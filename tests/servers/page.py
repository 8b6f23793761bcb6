"""docs/servers.md, out of launcher/servers/table.toml and the records of what was seen, launcher/servers/SUITE.jsonl.

    python3 tests/servers/page.py [--write]

Without --write it fails if the page is not the one that the table and the records make.
"""

import collections
import json
import pathlib
import sys
import tomllib

TOP = pathlib.Path(__file__).resolve().parent.parent.parent
FOLDER = TOP / "launcher/servers"
PAGE = TOP / "docs/servers.md"
SUITES = {"bookworm": "12", "trixie": "13", "sid": "sid"}
WAYS = ("exec", "accept", "run", "kernel")
EVENTS = ("HUP", "USR1", "USR2", "reload")
HEAD = """# Servers on ports below 1024

tests/servers/run writes this page; do not edit it. `portgrant recipe SERVER` prints the command and the files of each server.

Each cell comes from a real server that was started by its recipe, as an ordinary user without any capability, in one of four
ways: *exec* (`portgrant exec` binds the port and hands the socket over), *accept* (`portgrant exec --accept`, a process for each
connection), *run* (`portgrant run`, the server is unchanged) and *kernel* (kernel mode, unchanged too). A client asked a question
in the server's own protocol before and after each signal. The signals went to the process that was started.

| mark | after the signal |
|---|---|
| **=** | the same server answers, from the same process as before |
| **+** | the same server answers, from another process (a new worker, or one for each connection) |
| **!** | the process that was started ended, and another one answers |
| **x** | the server ended |
| **?** | the server runs, and does not answer |

*reload* is the server's own command, if it has one. Ways with the same marks share a line.
"""


def records():
    for suite in SUITES:
        path = FOLDER / f"{suite}.jsonl"
        if path.exists():
            yield from map(json.loads, path.read_text().splitlines())


def record(suite, outcomes, keep):
    """Replaces the records of these outcomes; of all, if they are a run of everything."""
    path = FOLDER / f"{suite}.jsonl"
    known = {}
    if keep and path.exists():
        known = {(r["server"], r["way"]): r for r in map(json.loads, path.read_text().splitlines())}
    for outcome in outcomes:
        refuses = outcome.get("start", {}).get("result") == "refuses"
        key = (outcome["server"], "refuses" if refuses else outcome["way"])
        known.pop(key, None)
        if refuses:
            known[key] = {"server": outcome["server"], "suite": suite, "version": outcome["version"], "way": "refuses"}
        elif "by" in outcome.get("start", {}):
            line = {"server": outcome["server"], "suite": suite, "version": outcome["version"], "way": outcome["way"]}
            line |= {"by": outcome["start"]["by"], "backlog": outcome.get("backlog", [])}
            for event in EVENTS:
                if event in outcome:
                    line[event] = outcome[event]["result"]
                    if "pid" in outcome[event]:
                        line[event] += f", {outcome[event]['pid']} process"
            known[key] = line
    order = {row["name"]: number for number, row in enumerate(table())}
    lines = [line for line in known.values() if line["server"] in order]
    lines.sort(key=lambda line: (order[line["server"]], (*WAYS, "refuses").index(line["way"])))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def table():
    return tomllib.loads((FOLDER / "table.toml").read_text())["server"]


def mark(word):
    if word is None:
        return ""
    return {"serves, same process": "=", "serves, another process": "+", "anew": "!", "ends": "x", "deaf": "?", "fails": "-"}[word]


def page():
    seen = collections.defaultdict(list)
    for line in records():
        seen[line["server"]].append(line)
    rows, cells = table(), 0
    kinds = collections.defaultdict(list)
    root = []
    for row in rows:
        if "root" in row:
            root.append(row)
        elif seen[row["name"]]:
            kinds[row["kind"]].append(row)
            cells += sum(1 + sum(event in line for event in EVENTS) for line in seen[row["name"]])
    servers = sum(map(len, kinds.values()))
    text = HEAD + f"\n{servers} servers, {cells} cells, all of them tested.\n"
    for kind, members in kinds.items():
        text += f"\n## {kind[0].upper() + kind[1:]}\n\n| server | Debian: version | ways | HUP | USR1 | USR2 | reload |\n|---|---|---|---|---|---|---|\n"
        for row in members:
            text += lines_of(row["name"], seen[row["name"]])
    if root:
        text += "\n## Must be started as root\n\nWhere a version is given, the server was started as an ordinary user, and refused.\n"
        text += "\n| server | because | Debian: version |\n|---|---|---|\n"
        for row in root:
            tried = ", ".join(f"{SUITES[line['suite']]}: {line['version']}" for line in seen[row["name"]])
            text += f"| {row['name']} | {row['root']} | {tried} |\n"
    return text


def lines_of(name, lines):
    """Ways and suites with the same marks together."""
    groups = collections.OrderedDict()
    for line in lines:
        marks = tuple(mark(line.get(event)) for event in EVENTS)
        groups.setdefault(marks, []).append(line)
    text = ""
    for marks, members in groups.items():
        suites = []
        for line in members:
            entry = f"{SUITES[line['suite']]}: {line['version']}"
            if entry not in suites:
                suites.append(entry)
        ways = [way for way in WAYS if any(line["way"] == way for line in members)]
        text += f"| {name} | {', '.join(suites)} | {', '.join(ways)} | {' | '.join(marks)} |\n"
        name = ""
    return text


def write():
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page())


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        write()
    elif not PAGE.exists() or PAGE.read_text() != page():
        sys.exit("tests/servers/page.py: docs/servers.md is not what the table and the records make\nfix: tests/servers/page.py --write")
