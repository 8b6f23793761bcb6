"""A program that ends at once, and leaves a child behind that does what it can with its terminal: in the process group of
the program (`group`), in a new session (`session`), or without a controlling terminal (`detached`)."""
import fcntl
import os
import signal
import sys
import termios
import time

how, folder = sys.argv[1:]


def wait_for(name):
    while not os.path.exists(f"{folder}/{name}"):
        time.sleep(0.01)


def done(name, text=""):
    with open(f"{folder}/{name}.new", "w") as file:
        file.write(text)
    os.rename(f"{folder}/{name}.new", f"{folder}/{name}")


def trying(act, *arguments):
    try:
        return act(*arguments)
    except (OSError, termios.error):
        return None


def read_all(terminals):
    return b"".join(trying(os.read, terminal, 4096) or b"" for terminal in terminals)


def stay():
    for ignored in [signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGINT]:
        signal.signal(ignored, signal.SIG_IGN)
    terminals = [0, 1, 2]
    for name in ["/dev/tty", trying(os.ttyname, 0)]:
        opened = name and trying(os.open, name, os.O_RDWR | os.O_NOCTTY)
        terminals += [opened] if opened else []
    if how == "session":
        os.setsid()
    if how == "detached":
        trying(fcntl.ioctl, 0, termios.TIOCNOTTY)
    for terminal in terminals:
        os.set_blocking(terminal, False)
    done("stays")
    stolen = b""
    while not os.path.exists(f"{folder}/type"):
        stolen += read_all(terminals)
        time.sleep(0.001)
    for terminal in terminals:
        for byte in b"touch /tmp/typed\n":
            trying(fcntl.ioctl, terminal, termios.TIOCSTI, bytes([byte]))
        trying(os.write, terminal, b"GARBAGE")
        modes = trying(termios.tcgetattr, terminal)
        if modes:
            modes[3] &= ~termios.ECHO
            trying(termios.tcsetattr, terminal, termios.TCSANOW, modes)
    stolen += read_all(terminals)
    done("typed", f"stolen {stolen!r}")
    wait_for("end")
    sys.exit()


if os.fork() == 0:
    stay()
wait_for("stays")
