"""Clients of many protocols, as small as they can be: each asks a server one question, and fails unless the answer is the
protocol's own and holds the expected text. A connection that opens is no answer.

`ask(question)` takes a line of the table: `WORD ADDRESS:PORT[/MORE] => TEXT`, or a conversation, which is a list: an address
and then lines, `>` to send one, `|` to send just these bytes, and `<` to wait for a text. It returns the local addresses of the sockets that were answered,
by which tests/servers/cell finds the process behind the other end.
"""

import base64
import json
import os
import shlex
import socket
import ssl
import struct
import subprocess
import time

TIMEOUT = 5
# Called with each connection before anything is said on it.
on_connect = None


class NoAnswer(Exception):
    pass


class Stream:
    """A connection, and what it was sent."""

    def __init__(self, where, tls=False):
        host, port = where.rsplit(":", 1)
        self.socket = socket.create_connection((host.strip("[]"), int(port)), TIMEOUT)
        self.ends = (self.socket.getsockname()[:2], self.socket.getpeername()[:2], "tcp")
        self.seen = b""
        if on_connect:
            on_connect(self)
        if tls:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
            self.socket = context.wrap_socket(self.socket)

    def send(self, data):
        self.socket.sendall(data if isinstance(data, bytes) else data.encode())

    def more(self):
        data = self.socket.recv(65536)
        self.seen += data
        return data

    def until(self, text):
        text = text if isinstance(text, bytes) else text.encode("latin-1")
        while text not in self.seen:
            if not self.more():
                raise NoAnswer(f"{text!r} expected, the connection ended after {self.seen[-300:]!r}")
        before, _, self.seen = self.seen.partition(text)
        return before + text

    def rest(self):
        while True:
            try:
                if not self.more():
                    return self.seen
            except ConnectionResetError:
                return self.seen

    def exactly(self, count):
        while len(self.seen) < count:
            if not self.more():
                raise NoAnswer(f"the connection ended after {self.seen!r}")
        data, self.seen = self.seen[:count], self.seen[count:]
        return data


def datagram(where, data, answers=1):
    """What comes back for a datagram, and the ends."""
    host, port = where.rsplit(":", 1)
    host = host.strip("[]")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(TIMEOUT)
        client.connect((host, int(port)))
        client.send(data)
        return client.recv(65536), (client.getsockname()[:2], client.getpeername()[:2], "udp")


def expect(text, answer):
    if isinstance(answer, bytes):
        answer = answer.decode("latin-1")
    if text not in answer:
        raise NoAnswer(f"{text!r} expected, the answer was {answer[:600]!r}")


def http(where, text, tls=False):
    where, _, path = where.partition("/")
    stream = Stream(where, tls)
    stream.send(f"GET /{path} HTTP/1.1\r\nHost: {where}\r\nConnection: close\r\nAccept: */*\r\n\r\n")
    while not whole(stream.seen):
        try:
            if not stream.more():
                break
        except ConnectionResetError:
            break
    answer = stream.seen
    if not answer.startswith(b"HTTP/1."):
        raise NoAnswer(f"not HTTP: {answer[:300]!r}")
    expect(text, answer)
    return [stream.ends]


def whole(answer):
    """Whether an answer with Content-Length is complete: not every server closes when it is asked to."""
    head, end, body = answer.partition(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n") if end else []:
        if line.startswith(b"content-length:"):
            return len(body) >= int(line.split(b":")[1])
    return False


def name(dotted):
    return b"".join(bytes([len(label)]) + label.encode() for label in dotted.strip(".").split(".") if label) + b"\0"


DNS_TYPES = {"A": 1, "NS": 2, "SOA": 6, "TXT": 16, "AAAA": 28}


def dns(where, text, tls=False, over=("udp", "tcp")):
    """A question over udp and the same over tcp. The text is an address, or `answers` for any answer without an error."""
    where, _, query = where.partition("/")
    query, _, kind = query.partition("?")
    question = struct.pack(">HHHHHH", 0x4242, 0x0100, 1, 0, 0, 0) + name(query) + struct.pack(">HH", DNS_TYPES[kind or "A"], 1)
    if kind == "version":
        question = struct.pack(">HHHHHH", 0x4242, 0, 1, 0, 0, 0) + name(query) + struct.pack(">HH", 16, 3)
    ends = []
    for way in over:
        if way == "udp":
            answer, both = datagram(where, question)
        else:
            stream = Stream(where, tls)
            stream.send(struct.pack(">H", len(question)) + question)
            answer, both = stream.exactly(struct.unpack(">H", stream.exactly(2))[0]), stream.ends
        number, flags, _, answers = struct.unpack(">HHHH", answer[:8])
        if number != 0x4242 or not flags & 0x8000:
            raise NoAnswer(f"not an answer: {answer!r}")
        if text == "refused":
            if flags & 15 != 5:
                raise NoAnswer(f"refused (5) expected, the answer was {flags & 15}")
        elif flags & 15 or not answers:
            raise NoAnswer(f"over {way}: error {flags & 15}, {answers} answers")
        elif text != "answers":
            expect((socket.inet_aton(text) if text[0].isdigit() else text.encode()).decode("latin-1"), answer)
        ends.append(both)
    return ends


def tftp(where, text):
    where, _, path = where.partition("/")
    host, port = where.rsplit(":", 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(TIMEOUT)
        client.bind(("127.0.0.1", 0))
        client.sendto(b"\0\1" + path.encode() + b"\0octet\0", (host, int(port)))
        answer, peer = client.recvfrom(65536)
        if answer[:4] != b"\0\3\0\1":
            raise NoAnswer(f"not the first block: {answer!r}")
        client.sendto(b"\0\4\0\1", peer)
        expect(text, answer[4:])
        return [(client.getsockname()[:2], peer[:2], "udp")]


def ftp(where, text):
    """`user:password@host:port/file`: logs in, and fetches a file in passive mode."""
    user, _, where = where.rpartition("@")
    user, _, password = (user or "anonymous:a@b").partition(":")
    where, _, path = where.partition("/")
    control = Stream(where)
    control.until("220")
    control.until("\n")
    for line, code in ((f"USER {user}", "331"), (f"PASS {password}", "230")):
        control.send(line + "\r\n")
        answer = control.until("\n").decode("latin-1")
        while len(answer) < 4 or answer[3] == "-" or not answer[:3].isdigit():
            answer = control.until("\n").decode("latin-1")
        if answer.startswith("230") and code == "331":
            break
        if not answer.startswith(code):
            raise NoAnswer(f"{line}: {answer}")
    if path:
        control.seen = b""
        control.send("PASV\r\n")
        answer = control.until(b")").decode()
        h = answer[answer.index("(") + 1:-1].split(",")
        control.until("\n")
        data = socket.create_connection((where.rsplit(":", 1)[0], int(h[4]) * 256 + int(h[5])), TIMEOUT)
        control.send(f"RETR {path}\r\n")
        if not control.until("\n").startswith(b"1"):
            raise NoAnswer(f"RETR {path}: refused")
        got = b""
        while chunk := data.recv(65536):
            got += chunk
        expect(text, got)
    control.send("QUIT\r\n")
    return [control.ends]


def ntp(where, text):
    answer, ends = datagram(where, bytes([0x23]) + bytes(47))
    if len(answer) < 48 or answer[0] & 7 != 4:
        raise NoAnswer(f"not a server's answer: {answer!r}")
    return [ends]


def ber(tag, *parts):
    body = b"".join(parts)
    length = bytes([len(body)]) if len(body) < 128 else bytes([0x82]) + struct.pack(">H", len(body))
    return bytes([tag]) + length + body


def snmp(where, text):
    """sysDescr.0 or, as a request, an inform that is acknowledged."""
    where, _, path = where.partition("/")
    oid = ber(6, bytes([0x2B, 6, 1, 2, 1, 1, 1, 0]))
    if path == "inform":
        binds = ber(0x30, ber(0x30, ber(6, bytes([0x2B, 6, 1, 2, 1, 1, 3, 0])), ber(0x43, b"\1")),
                    ber(0x30, ber(6, bytes([0x2B, 6, 1, 6, 3, 1, 1, 4, 1, 0])), ber(6, bytes([0x2B, 6, 1, 6, 3, 1, 1, 5, 1]))))
        request = ber(0xA6, ber(2, b"\x42"), ber(2, b"\0"), ber(2, b"\0"), binds)
    else:
        request = ber(0xA0, ber(2, b"\x42"), ber(2, b"\0"), ber(2, b"\0"), ber(0x30, ber(0x30, oid, ber(5))))
    answer, ends = datagram(where, ber(0x30, ber(2, b"\1"), ber(4, b"public"), request))
    if b"public" not in answer or b"\xa2" not in answer:
        raise NoAnswer(f"not a response: {answer!r}")
    expect(text, answer)
    return [ends]


def ldap(where, text):
    """An anonymous bind, and a search of the root."""
    where, _, base = where.partition("/")
    stream = Stream(where)
    stream.send(ber(0x30, ber(2, b"\1"), ber(0x60, ber(2, b"\3"), ber(4), ber(0x80))))
    if b"\x0a\x01\x00" not in stream.more():
        raise NoAnswer(f"bind: {stream.seen!r}")
    stream.seen = b""
    stream.send(ber(0x30, ber(2, b"\2"), ber(0x63, ber(4, base.encode()), ber(10, b"\0"), ber(10, b"\0"), ber(2, b"\0"),
                    ber(2, b"\0"), ber(1, b"\0"), ber(0x87, b"objectClass"), ber(0x30))))
    expect(text, stream.until(b"\x0a\x01\x00"))
    return [stream.ends]


def mqtt(where, text):
    stream = Stream(where)
    stream.send(bytes([0x10, 13]) + b"\0\4MQTT\4\2\0\x3c\0\1a")
    if stream.exactly(4) != b"\x20\2\0\0":
        raise NoAnswer("no CONNACK")
    stream.send(b"\x82\6\0\1\0\1t\0" + b"\x30\6\0\1tyes")
    stream.until(b"\0\1tyes")
    return [stream.ends]


def fastcgi(where, text):
    where, _, script = where.partition("/")
    stream = Stream(where)
    def record(kind, content):
        return bytes([1, kind, 0, 1]) + struct.pack(">HH", len(content), 0) + content
    parameters = b"".join(bytes([len(n), len(v)]) + n + v for n, v in (
        (b"REQUEST_METHOD", b"GET"), (b"SCRIPT_FILENAME", b"/" + script.encode()), (b"SCRIPT_NAME", b"/")))
    stream.send(record(1, b"\0\1\0\0\0\0\0\0") + record(4, parameters) + record(4, b"") + record(5, b""))
    expect(text, stream.rest())
    return [stream.ends]


def uwsgi(where, text):
    """The uwsgi protocol itself."""
    stream = Stream(where)
    pairs = b"".join(struct.pack("<H", len(w)) + w for pair in ((b"REQUEST_METHOD", b"GET"), (b"PATH_INFO", b"/"),
                     (b"SERVER_NAME", b"a"), (b"SERVER_PORT", b"80"), (b"QUERY_STRING", b"")) for w in pair)
    stream.send(struct.pack("<BHB", 0, len(pairs), 0) + pairs)
    expect(text, stream.rest())
    return [stream.ends]


def socks(where, text):
    """SOCKS5 to a port of this machine where nobody listens: the proxy says so."""
    stream = Stream(where)
    stream.send(b"\5\1\0")
    if stream.exactly(2) != b"\5\0":
        raise NoAnswer("no SOCKS5 without a password")
    if text != "greeting":
        stream.send(b"\5\1\0\1\x7f\0\0\1\0\x01")
        if stream.exactly(2)[0] != 5:
            raise NoAnswer("no SOCKS5 answer")
    return [stream.ends]


def radius(where, text):
    """An Access-Request (text is accept or reject), with User-Password under the secret `secret`."""
    import hashlib
    authenticator = os.urandom(16)
    password = b"secret".ljust(16, b"\0")
    hidden = bytes(a ^ b for a, b in zip(password, hashlib.md5(b"secret" + authenticator).digest()))
    attributes = b"\1\7alice" + b"\2\x12" + hidden
    answer, ends = datagram(where, struct.pack(">BBH", 1, 1, 20 + len(attributes)) + authenticator + attributes)
    expect({2: "accept", 3: "reject"}.get(answer[0], "?"), text)
    return [ends]


def kerberos(where, text):
    """An AS-REQ for a principal that does not exist: a KRB-ERROR comes back."""
    def s(text):
        return ber(0x1B, text.encode())
    def seq(tag, part):
        return ber(0xA0 | tag, part)
    def principal(kind, *names):
        return ber(0x30, seq(0, ber(2, bytes([kind]))), seq(1, ber(0x30, *[s(n) for n in names])))
    body = ber(0x30, seq(0, ber(3, b"\0\0\0\0\0")), seq(1, principal(1, "nobody")), seq(2, s("EXAMPLE.TEST")),
               seq(3, principal(2, "krbtgt", "EXAMPLE.TEST")), seq(5, ber(0x18, b"20370913024805Z")), seq(7, ber(2, b"\x42")),
               seq(8, ber(0x30, ber(2, b"\x12"))))
    answer, ends = datagram(where, ber(0x6A, ber(0x30, seq(1, ber(2, b"\5")), seq(2, ber(2, b"\x0a")), seq(4, body))))
    if answer[0] != 0x7E:
        raise NoAnswer(f"not a KRB-ERROR: {answer!r}")
    return [ends]


def stun(where, text):
    answer, ends = datagram(where, struct.pack(">HHI", 1, 0, 0x2112A442) + b"portgrant_12")
    if answer[:2] != b"\1\1" or b"portgrant_12" not in answer:
        raise NoAnswer(f"not a binding response: {answer!r}")
    return [ends]


def sip(where, text):
    client = f"127.0.0.1:{5070}"
    answer, ends = datagram(where, (f"OPTIONS sip:a@{where} SIP/2.0\r\nVia: SIP/2.0/UDP {client};branch=z9hG4bK42;rport\r\n"
                                    f"Max-Forwards: 70\r\nFrom: <sip:b@localhost>;tag=1\r\nTo: <sip:a@localhost>\r\nCall-ID: 42@localhost\r\n"
                                    f"CSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n").encode())
    expect("SIP/2.0 ", answer)
    return [ends]


def bgp(where, text):
    """An OPEN is answered by an OPEN or a NOTIFICATION."""
    stream = Stream(where)
    stream.send(b"\xff" * 16 + struct.pack(">HBBHHIB", 29, 1, 4, 65001, 90, 0x0A000001, 0))
    header = stream.exactly(19)
    if header[:16] != b"\xff" * 16 or header[18] not in (1, 3):
        raise NoAnswer(f"not BGP: {header!r}")
    return [stream.ends]


def mumble(where, text):
    """A ping over udp."""
    answer, ends = datagram(where, b"\0\0\0\0" + b"portgran")
    if b"portgran" not in answer:
        raise NoAnswer(f"{answer!r}")
    return [ends]


def smb(where, text):
    """An SMB2 NEGOTIATE."""
    stream = Stream(where)
    header = b"\xfeSMB" + struct.pack("<HHIHHIIQIIQ16s", 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, b"")
    body = struct.pack("<HHHHI16sQHH", 36, 2, 1, 0, 0, b"portgrant-------", 0, 0x0202, 0x0210)
    stream.send(struct.pack(">I", len(header + body)) + header + body)
    stream.until(b"\xfeSMB")
    return [stream.ends]


def modbus(where, text):
    stream = Stream(where)
    stream.send(struct.pack(">HHHBBHH", 1, 0, 6, 1, 3, 0, 1))
    answer = stream.exactly(8)
    if answer[:2] != b"\0\1" or answer[7] & 0x7F != 3:
        raise NoAnswer(f"{answer!r}")
    return [stream.ends]


def dicom(where, text):
    """A verification association: accepted or rejected."""
    stream = Stream(where)
    def item(kind, data):
        return struct.pack(">BBH", kind, 0, len(data)) + data
    context = item(0x20, b"\1\0\0\0" + item(0x30, b"1.2.840.10008.1.1") + item(0x40, b"1.2.840.10008.1.2"))
    user = item(0x50, item(0x51, struct.pack(">I", 16384)) + item(0x52, b"1.2.3.4"))
    body = struct.pack(">HH16s16s32s", 1, 0, b"STORESCP".ljust(16), b"PORTGRANT".ljust(16), b"") + item(0x10, b"1.2.840.10008.3.1.1.1") + context + user
    stream.send(struct.pack(">BBI", 1, 0, len(body)) + body)
    if stream.exactly(1)[0] not in (2, 3):
        raise NoAnswer("no association answer")
    return [stream.ends]


def syslog(where, text):
    """A message, and the file that it is written to: `syslog 127.0.0.1:514/home/alice/log`."""
    where, _, path = where.partition("/")
    word = "portgrant" + os.urandom(6).hex()
    host, port = where.rsplit(":", 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect((host, int(port)))
        client.send(f"<13>Jan  1 00:00:00 client test: {word}\n".encode())
        ends = (client.getsockname()[:2], client.getpeername()[:2], "udp")
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        try:
            if word in open(f"{os.environ['PORTGRANT_WORLD']}/{path}", errors="replace").read():
                return [ends]
        except FileNotFoundError:
            pass
        time.sleep(0.05)
    raise NoAnswer(f"{word} is not in /{path}")


def rpc(where, text):
    """The NULL procedure: `rpc 127.0.0.1:111/100000.2`."""
    where, _, program = where.partition("/")
    number, version = map(int, program.split("."))
    answer, ends = datagram(where, struct.pack(">IIIIIIIIII", 0x42, 0, 2, number, version, 0, 0, 0, 0, 0))
    if answer[:8] != struct.pack(">II", 0x42, 1):
        raise NoAnswer(f"{answer!r}")
    return [ends]


def mysql(where, text):
    stream = Stream(where)
    greeting = stream.exactly(5)
    if greeting[4] not in (10, 255):
        raise NoAnswer(f"{greeting!r}")
    return [stream.ends]


def postgres(where, text):
    stream = Stream(where)
    stream.send(struct.pack(">II", 8, 80877103))
    if stream.exactly(1) not in (b"N", b"S"):
        raise NoAnswer("no answer to SSLRequest")
    return [stream.ends]


def dnstcp(where, text):
    return dns(where, text, over=("tcp",))


def dnsudp(where, text):
    return dns(where, text, over=("udp",))


def dnstls(where, text):
    return dns(where, text, tls=True, over=("tcp",))


def https(where, text):
    return http(where, text, tls=True)


def tls(where, text):
    stream = Stream(where, tls=True)
    return [stream.ends]


def datagrams(where, text):
    """`datagram ADDRESS/WORD => TEXT`."""
    where, _, word = where.partition("/")
    answer, ends = datagram(where, word.encode() + b"\n")
    expect(text, answer)
    return [ends]


def shell(command, text):
    """A real client, inside of the world, as the user; the socket of another process cannot be seen."""
    world = os.environ["PORTGRANT_WORLD"]
    user = os.environ.get("PORTGRANT_USER", "alice")
    words = ["chroot", world, "setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--inh-caps=-all", "env", "-i",
             "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", f"HOME=/home/{user}", "sh", "-c", f"cd /home/alice; {command}"]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=20)
    if done.returncode:
        raise NoAnswer(f"{command}: {done.returncode}: {done.stderr[-600:]!r} {done.stdout[-300:]!r}")
    expect(text, done.stdout)
    return []


def conversation(lines):
    where, *lines = lines
    tls = where.startswith("tls ")
    stream = Stream(where.removeprefix("tls ").removeprefix("tcp "), tls)
    for line in lines:
        if line[0] == ">":
            stream.send(line[1:] + "\r\n")
        elif line[0] == "|":
            stream.send(line[1:].encode("latin-1"))
        else:
            stream.until(line[1:])
    return [stream.ends]


WORDS = {
    "http": http, "https": https, "dns": dns, "dns-udp": dnsudp, "dns-tcp": dnstcp, "dns-tls": dnstls, "tftp": tftp, "ftp": ftp, "ntp": ntp, "snmp": snmp,
    "ldap": ldap, "mqtt": mqtt, "fastcgi": fastcgi, "uwsgi": uwsgi, "socks": socks, "radius": radius, "kerberos": kerberos,
    "stun": stun, "sip": sip, "bgp": bgp, "mumble": mumble, "smb": smb, "modbus": modbus, "dicom": dicom, "syslog": syslog,
    "rpc": rpc, "mysql": mysql, "postgres": postgres, "tls": tls, "datagram": datagrams, "sh": shell,
}


def ask(question):
    try:
        if isinstance(question, list):
            return conversation(question)
        words, _, text = question.partition(" => ")
        word, _, where = words.partition(" ")
        return WORDS[word](where, text)
    except (OSError, IndexError, ValueError, struct.error, subprocess.TimeoutExpired) as error:
        raise NoAnswer(f"{question}: {type(error).__name__}: {error}") from error
