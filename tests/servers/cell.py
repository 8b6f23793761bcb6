"""One server, started one way, in a room that nobody else sees: `cell ROOT PROGRAMS CGROUP`, with the work as JSON on
standard input and the outcome as a line of JSON on standard output. tests/servers/run starts it as process 1 of namespaces.

The room is ROOT, a Debian with the server, under an overlay: what is written there vanishes. portgrant from PROGRAMS is
installed in it with the file capability. The server runs as an ordinary user, without any capability.
"""

import json
import os
import pathlib
import signal
import socket
import struct
import subprocess
import sys
import time

import probes

WORLD = "/mnt"
TAIL = 3000


def main():
    driver = os.fork()
    if driver == 0:
        root, programs, cgroup = sys.argv[1:]
        work = json.load(sys.stdin)
        try:
            outcome = Cell(work, root, programs, cgroup).outcome()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this cell's outcome
            outcome = {"failed": f"{type(error).__name__}: {error}"}
        print(json.dumps(outcome), flush=True)
        os._exit(0)
    while os.waitpid(-1, 0)[0] != driver:  # as process 1, for all that lost its parent
        pass


def sh(script, *words):
    done = subprocess.run(["sh", "-ec", script, "sh", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{script.strip()[:200]}: {done.stderr}{done.stdout}")


FURNISH = """
root=$1 programs=$2 w=$3 cgroup=$4
mount -t tmpfs -o mode=0755 tmpfs "$w"
mkdir "$w/up" "$w/work" "$w/all"
mount -t overlay overlay -o lowerdir="$root",upperdir="$w/up",workdir="$w/work" "$w/all"
cd "$w/all"
mount -t proc proc proc
mount -t tmpfs -o mode=0755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=0755 tmpfs dev
mkdir -m 1777 dev/shm run/lock
mkdir dev/pts
for device in null zero full random urandom tty; do : >"dev/$device"; mount --bind "/dev/$device" "dev/$device"; done
ln -s /proc/self/fd dev/fd
ln -s fd/0 dev/stdin
ln -s fd/1 dev/stdout
ln -s fd/2 dev/stderr
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mkdir -p usr/libexec/portgrant usr/local/bin usr/local/sbin
for program in "$programs"/*; do
    case ${program##*/} in
        portgrant | portgrant-binder | portgrant-explain | portgrant-supervisor) to=usr/libexec/portgrant/ ;;
        portgrant-kernel) to=usr/local/sbin/ ;;
        portgrant-front) to=usr/local/bin/portgrant ;;
        *) continue ;;
    esac
    install -o0 -g0 -m0755 "$program" "$to"
done
[ ! -e "$programs/hello" ] || install -o0 -g0 -m0755 "$programs/hello" usr/local/bin/hello
chroot . setcap cap_net_bind_service=p /usr/libexec/portgrant/portgrant-binder
printf 'alice:x:1000:1000::/home/alice:/bin/sh\n' >>etc/passwd
printf 'alice:x:1000:\n' >>etc/group
printf '127.0.0.1 localhost\n::1 localhost\n127.0.1.1 news.example.test news\n' >etc/hosts
mkdir -p home/alice
chown 1000:1000 home/alice
if [ -n "$cgroup" ]; then
    mkdir -p sys/fs/cgroup sys/fs/bpf
    mount --bind "$cgroup" sys/fs/cgroup
    mount -t bpf -o mode=0700 none sys/fs/bpf
fi
chroot . ip link set lo up
# Addresses that are not loopback: with AI_ADDRCONFIG tftpd-hpa and innd find no family without one.
chroot . ip address add 192.0.2.10/32 dev lo
chroot . ip address add 2001:db8::10/128 dev lo nodad
"""


class Cell:
    def __init__(self, work, root, programs, cgroup):
        self.work, self.row, self.way = work, work["row"], work["way"]
        self.user = self.row.get("user", "alice")
        self.test = self.row["test"]
        self.patience = self.test.get("patience", 30)
        self.expected = work.get("expected", {})
        socket.sethostname("news")
        sh(FURNISH, root, programs, WORLD, cgroup if self.way == "kernel" else "")
        self.world = pathlib.Path(WORLD, "all")
        os.environ["PORTGRANT_WORLD"] = str(self.world)
        os.environ["PORTGRANT_USER"] = self.user
        passwd = [line.split(":") for line in (self.world / "etc/passwd").read_text().splitlines()]
        self.uid = next(int(line[2]) for line in passwd if line[0] == self.user)
        (self.world / "etc/portgrant.conf").write_text(f"permit {self.user} 1-1023 1-1023/udp reserved reuseport freebind\n")
        for name, content in self.row.get("files", {}).items():
            path = self.world / "home/alice" / name.removeprefix("~/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
            os.chown(path, self.uid, self.uid)
            path.chmod(0o755 if content.startswith("#!") else 0o644)
        if setup := self.test.get("setup"):
            sh('chroot "$1" sh -ec "cd /home/alice; $2"', str(self.world), setup)
        if self.way == "kernel":
            sh('chroot "$1" portgrant-kernel load --cgroup /sys/fs/cgroup', str(self.world))
        self.log = self.world.parent / "log"
        self.main = None

    def outcome(self):
        self.start()
        if text := self.test.get("refuses"):
            return self.refused(text)
        first = self.until_answered(self.patience)
        outcome = {"start": first}
        if "by" not in first:
            return outcome | {"log": self.tail()}
        self.is_the_users(first)
        outcome["backlog"] = self.backlog()
        before = first
        for event in self.work["events"]:
            after = self.after(event, before)
            outcome[event] = after
            if after["result"] != "serves":
                if after["result"] != self.expected.get(event):
                    outcome["log"] = self.tail()
                break
            before = after
        return outcome

    def refused(self, text):
        """A server that insists on root ends, and says so."""
        try:
            self.main.wait(self.patience)
        except subprocess.TimeoutExpired:
            return {"failed": "it did not end without root"}
        if text not in self.tail():
            return {"failed": f"{text!r} expected", "log": self.tail()}
        return {"start": {"result": "refuses"}}

    def tail(self):
        return self.log.read_text(errors="replace")[-TAIL:]

    def command(self):
        """The printed command; its last line replaces the shell."""
        text = self.row["exec" if self.way == "exec" else "accept" if self.way == "accept" else "run"].rstrip("\n")
        lines = text.replace("\\\n", "").split("\n")
        last = lines[-1]
        if self.way == "run":
            last = "portgrant run -- " + last
        return "\n".join([*lines[:-1], f"exec {last}"])

    def words(self, command):
        home = "/home/alice" if self.user in ("alice", "news", "Debian-exim") else "/home/alice"
        script = 'cd /home/alice; shift; exec setpriv --reuid="$U" --regid="$U" --init-groups --inh-caps=-all --ambient-caps=-all ' \
            'env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin ' \
            f'HOME={home} USER="$U" LOGNAME="$U" LANG=C.UTF-8 SHELL=/bin/sh sh -ec "$C"'
        if self.way == "kernel":
            script = "echo $$ >/sys/fs/cgroup/cgroup.procs; " + script
        return ["env", f"U={self.user}", f"C={command}", "chroot", str(self.world), "sh", "-ec", script, "sh", "x"]

    def start(self):
        output = open(self.log, "ab")
        self.main = subprocess.Popen(self.words(self.command()), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                     start_new_session=True, cwd="/")

    def questions(self):
        ask = self.test["ask"]
        return ask.get(self.way, ask.get("other")) if isinstance(ask, dict) else ask

    def asked(self):
        """Who answers, all of them; NoAnswer otherwise."""
        acceptors.clear()
        ends = [end for question in self.questions() for end in probes.ask(question)]
        by = sorted({pid for end in ends for pid in acceptors.get(end) or holders(end)})
        return {"pids": by, "by": sorted({name_of(pid) for pid in by} - {""})}

    def until_answered(self, seconds):
        deadline = time.monotonic() + seconds
        while True:
            try:
                return {"result": "serves", **self.asked(), "main": self.main.pid}
            except probes.NoAnswer as error:
                if self.main.poll() is not None and self.work.get("foreground", True):
                    return {"result": "ends", "status": self.main.returncode, "why": str(error)}
                if time.monotonic() > deadline:
                    return {"result": "deaf", "why": str(error)}
            time.sleep(0.1)

    def after(self, event, before):
        """What became of it after a signal or its reload command."""
        expected = self.expected.get(event)
        if event == "reload":
            done = subprocess.run(self.words(self.row["reload"]), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
            if done.returncode:
                return {"result": "fails", "why": done.stderr + done.stdout}
        else:
            os.kill(self.main.pid, getattr(signal, "SIG" + event))
            self.taken(getattr(signal, "SIG" + event))
        time.sleep(self.work["settle"])
        # A server that ends may take its time for it, on a busy machine above all.
        deadline = time.monotonic() + (30 if expected in ("ends", "anew") else 0)
        while self.main.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        if self.main.poll() is not None:
            time.sleep(self.work["settle"])
            after = self.until_answered_again(10 if expected == "anew" else 2)
            result = "anew" if "by" in after else "ends"
            return after | {"result": result, "status": self.main.returncode}
        after = self.until_answered_again(6 if expected == "deaf" else self.patience if expected else 8)
        if "by" not in after:
            return after | {"result": "ends" if self.main.poll() is not None else "deaf"}
        if self.main.poll() is not None:
            return after | {"result": "anew"}
        return after | {"result": "serves", "pid": "same" if set(after["pids"]) & set(before["pids"]) else "another"}

    def until_answered_again(self, seconds):
        deadline = time.monotonic() + seconds
        while True:
            try:
                return self.asked()
            except probes.NoAnswer as error:
                if time.monotonic() > deadline:
                    return {"why": str(error)}
            time.sleep(0.1)

    def taken(self, number):
        """Waits until the signal is not pending any more."""
        for _ in range(500):
            try:
                status = pathlib.Path(f"/proc/{self.main.pid}/status").read_text()
            except OSError:
                return
            pending = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigPnd", "ShdPnd"))]
            if not any(mask >> (number - 1) & 1 for mask in pending):
                return
            time.sleep(0.02)

    def is_the_users(self, first):
        """Every low socket is the user's, and whoever answered has no capability and no other uid."""
        for protocol in ("tcp", "tcp6", "udp", "udp6"):
            for entry in sockets(protocol):
                if entry.port < 1024 and entry.state in ("0A", "07") and entry.inode and entry.uid != self.uid:
                    raise RuntimeError(f"port {entry.port} belongs to uid {entry.uid}")
        for pid in first["pids"]:
            try:
                status = pathlib.Path(f"/proc/{pid}/status").read_text()
            except FileNotFoundError:
                continue
            fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
            setuid = self.test.get("setuid")
            if not setuid and (fields["Uid"].split() != [str(self.uid)] * 4 or int(fields["CapEff"], 16)):
                raise RuntimeError(f"process {pid} has uids {fields['Uid']} and capabilities {fields['CapEff']}")

    def backlog(self):
        """The backlogs of low listeners."""
        done = subprocess.run(["chroot", str(self.world), "ss", "-Hltn"], capture_output=True, text=True)
        rows = [line.split() for line in done.stdout.splitlines()]
        return sorted({int(row[2]) for row in rows if int(row[3].rsplit(":", 1)[1]) < 1024})


class Entry:
    def __init__(self, line):
        words = line.split()
        self.local, self.port = address(words[1])
        self.remote = address(words[2])
        self.state, self.uid, self.inode = words[3], int(words[7]), int(words[9])


def address(text):
    host, port = text.split(":")
    data = b"".join(struct.pack("<I", int(host[i:i + 8], 16)) for i in range(0, len(host), 8))
    if len(data) == 16 and data.startswith(b"\0" * 10 + b"\xff\xff"):
        data = data[12:]
    return socket.inet_ntop(socket.AF_INET if len(data) == 4 else socket.AF_INET6, data), int(port, 16)


def sockets(protocol):
    try:
        lines = pathlib.Path(f"/proc/net/{protocol}").read_text().splitlines()[1:]
    except FileNotFoundError:
        return []
    return [Entry(line) for line in lines]


def pids_of(inode):
    wanted = f"socket:[{inode}]"
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if any(os.readlink(f"/proc/{pid}/fd/{fd}") == wanted for fd in os.listdir(f"/proc/{pid}/fd")):
                yield int(pid)
        except OSError:
            pass


acceptors = {}


def accepted(stream):
    """Who has accepted this connection; waited for a moment, before anything is said on it."""
    (client, server, _) = stream.ends
    deadline = time.monotonic() + 0.2
    while time.monotonic() < deadline:
        for entry in sockets("tcp") + sockets("tcp6"):
            if entry.port == server[1] and entry.remote == client and entry.inode:
                if found := list(pids_of(entry.inode)):
                    acceptors[stream.ends] = found
                    return
        time.sleep(0.01)


def holders(ends):
    """Those who have the socket that answered open: the connection's, or else the one that the port is bound by."""
    client, server, protocol = ends
    entries = sockets(protocol) + sockets(protocol + "6")
    mine = [e for e in entries if e.port == server[1] and e.remote == client and e.inode]
    bound = [e for e in entries if e.port == server[1] and e.inode and (protocol == "udp" or e.state == "0A")]
    return [pid for entry in mine for pid in pids_of(entry.inode)] or [pid for entry in bound for pid in pids_of(entry.inode)]


def name_of(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


probes.on_connect = accepted
main()
