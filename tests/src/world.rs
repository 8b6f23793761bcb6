//! One test's machine: a root file system, a network, a host name and an installed portgrant that nobody else sees.
//!
//! `tests/namespaces` starts the test binary as root of its namespaces, with PORTGRANT_TESTS naming a folder that holds
//! `programs/` (what was built), `root/` (a Debian, shared by all tests and never written to) and `world/` (empty).

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::panic;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, chdir, pivot_root, sethostname};

use crate::account::Account;
use crate::birth;
use crate::caller::Caller;
use crate::listening::{self, Listening};
use crate::process::{self as processes, Process};
use crate::running::Running;
use crate::syslog::Syslog;

/// Where the helper is installed.
pub const BINDER: &str = "/usr/libexec/portgrant/portgrant-binder";
/// Where portgrant-explain is installed.
pub const POLICY: &str = "/usr/libexec/portgrant/portgrant-explain";
/// Where the supervisor of `portgrant run` is installed.
pub const SUPERVISOR: &str = "/usr/libexec/portgrant/portgrant-supervisor";
/// Where `portgrant` is installed: the program of front.
pub const LAUNCHER: &str = "/usr/local/bin/portgrant";
/// Where the launcher is installed, which front executes for all but a plain exec.
pub const LAUNCHER_ITSELF: &str = "/usr/libexec/portgrant/portgrant";
/// Where the kernel mode's loader is installed.
pub const KERNEL: &str = "/usr/local/sbin/portgrant-kernel";

const BESIDE_THE_BINDER: [&str; 4] = ["portgrant", "portgrant-binder", "portgrant-explain", "portgrant-supervisor"];

const HOSTS: &str = "127.0.0.1 localhost\n::1 localhost\n127.0.1.1 news.example.test news\n";
const USERS: &str = "alice:x:1000:1000::/home/alice:/bin/sh\nbob:x:1001:1001::/home/bob:/bin/sh\n";
const GROUPS: &str = "alice:x:1000:\nbob:x:1001:\nweb:x:2000:bob\n";

/// How the helper got its privilege.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Install {
    /// Owned by root, mode 4755.
    Setuid,
    /// Mode 0755 with the file capability `cap_net_bind_service=p`.
    FileCapability,
}

/// One test's machine, seen from the thread that the test runs on.
///
/// Users alice (uid 1000), bob (1001, and in the group web, 2000) and those of the servers' packages exist; `lo` is
/// up with 127.0.0.0/8 and `::1`; there is no policy yet. All of `/` but `/usr` may be written to, by the test itself
/// as root through [`std::fs`]. Whatever still runs when the test ends is killed.
///
/// Tests run side by side in one process: what the test itself opens is for a moment held by the children of others,
/// between their fork and their execve. What programs in the world open is theirs alone.
#[derive(Debug)]
pub struct World {
    install: Install,
    is_apart: bool,
}

/// Makes two tests of each function that takes a `&World`, `name::setuid` and `name::file_capability`.
#[macro_export]
macro_rules! both_installs {
    ($($name:ident),+ $(,)?) => {$(
        mod $name {
            #[test]
            fn setuid() {
                $crate::World::with($crate::Install::Setuid, super::$name);
            }
            #[test]
            fn file_capability() {
                $crate::World::with($crate::Install::FileCapability, super::$name);
            }
        }
    )+};
}

/// Says loudly that this test cannot be run here; `tests/run` counts it. The test returns after it.
pub fn skip(reason: &str) {
    print(&format!("SKIPPED {}: {reason}", test_name()));
}

/// Prints how many faults this test injected into system calls, for the table "Shown with" in SECURITY.md.
pub fn injected(faults: usize) {
    print(&format!("INJECTED {faults} faults: {}", test_name()));
}

fn test_name() -> String {
    thread::current().name().unwrap_or("a test").to_owned()
}

/// Straight to the descriptor: eprintln would be swallowed, as the test passes.
fn print(line: &str) {
    let _ = io::stderr().write_all(format!("\n{line}\n").as_bytes());
}

/// What Yama lets look into a process (kernel.yama.ptrace_scope), if the kernel has it. It is the machine's, not a world's.
#[must_use]
pub fn ptrace_scope() -> Option<u8> {
    fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").ok()?.trim().parse().ok()
}

impl World {
    /// Runs `test` in a fresh world, on a separate thread, and passes its panic on.
    pub fn with(install: Install, test: impl FnOnce(&Self) + Send + 'static) {
        birth::clear_the_way();
        let name = thread::current().name().unwrap_or("world").to_owned();
        let life = thread::Builder::new().name(name).spawn(move || test(&Self::create(install)));
        if let Err(cause) = life.expect("a thread").join() {
            panic::resume_unwind(cause);
        }
    }

    /// The machine itself, as it is: for tests that have one of their own (`tests/booted`). Nothing is undone.
    #[must_use]
    pub fn here() -> Self {
        birth::clear_the_way();
        Self { install: Install::FileCapability, is_apart: false }
    }

    /// How the helper is installed here.
    #[must_use]
    pub fn install(&self) -> Install {
        self.install
    }

    /// Writes `/etc/portgrant.conf` as an administrator would: root:root, 0644.
    pub fn policy(&self, rules: &str) {
        self.file("/etc/portgrant.conf", rules);
    }

    /// Writes `/etc/portgrant.d/NAME`, and the folder where it is missing.
    pub fn policy_file(&self, name: &str, rules: &str) {
        self.folder("/etc/portgrant.d", "root", 0o755);
        self.file(&format!("/etc/portgrant.d/{name}"), rules);
    }

    /// Writes a file that is root's, 0644.
    pub fn file(&self, path: &str, content: &str) {
        fs::write(path, content).unwrap_or_else(|e| panic!("write {path}: {e}"));
    }

    /// Makes a folder, its parents too, or gives an existing one this owner and mode.
    pub fn folder(&self, path: &str, owner: &str, mode: u32) {
        let account = Account::named(owner);
        fs::create_dir_all(path).unwrap_or_else(|e| panic!("mkdir {path}: {e}"));
        chown(path, Some(account.uid), Some(account.gid)).unwrap_or_else(|e| panic!("chown {path}: {e}"));
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap_or_else(|e| panic!("chmod {path}: {e}"));
    }

    /// Somebody who logged in as `user`: that user's ids and groups, no capability, a plain environment.
    pub fn as_user(&self, user: &str) -> Caller {
        Caller::of(&Account::named(user))
    }

    /// The administrator.
    pub fn as_root(&self) -> Caller {
        self.as_user("root")
    }

    /// The number of a user.
    #[must_use]
    pub fn uid(&self, user: &str) -> u32 {
        Account::named(user).uid
    }

    /// What the kernel says of a process.
    ///
    /// # Panics
    /// If there is no such process.
    #[must_use]
    pub fn process(&self, pid: u32) -> Process {
        Process::read(pid)
    }

    /// The same, once it sleeps as the program that it was to become: before that it may still be portgrant, or be
    /// loading its libraries.
    ///
    /// # Panics
    /// If there is no such process, or it does not come to rest.
    #[must_use]
    pub fn process_at_rest(&self, pid: u32) -> Process {
        let deadline = Instant::now() + Duration::from_secs(10);
        let is_portgrant = || {
            let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            [BINDER, LAUNCHER, LAUNCHER_ITSELF].map(Path::new).contains(&program.as_path())
        };
        while is_portgrant() || !processes::sleeps(pid) {
            assert!(Instant::now() < deadline, "process {pid} does not come to rest");
            thread::sleep(Duration::from_millis(1));
        }
        Process::read(pid)
    }

    /// The same, once it waits for room in a pipe.
    ///
    /// # Panics
    /// If it does not within 10 seconds.
    #[must_use]
    pub fn process_that_writes(&self, pid: u32) -> Process {
        let deadline = Instant::now() + Duration::from_secs(10);
        let waits = || fs::read_to_string(format!("/proc/{pid}/wchan")).is_ok_and(|place| place.contains("pipe_write"));
        while !waits() {
            assert!(Instant::now() < deadline, "process {pid} does not write");
            thread::sleep(Duration::from_millis(1));
        }
        Process::read(pid)
    }

    /// Starts `words` as `user`, a server, and waits until there are `sockets` that listen and it has no privilege.
    ///
    /// # Panics
    /// Where that is not so within 10 seconds.
    #[must_use]
    #[track_caller]
    pub fn serving(&self, user: &str, words: &[&str], sockets: usize) -> Running {
        let server = self.as_user(user).spawn(words);
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.listening().len() < sockets || !self.process_at_rest(server.pid()).is_powerless() {
            assert!(Instant::now() < deadline, "nobody listens: {:?}", server.output());
        }
        assert_eq!(self.process(server.pid()).uids, [self.uid(user); 4]);
        server
    }

    /// Every socket of this world that listens, and every datagram socket that is bound.
    #[must_use]
    pub fn listening(&self) -> Vec<Listening> {
        listening::all(self)
    }

    /// Opens `/dev/log`. (Without it there is none, as on a machine whose log daemon is down.)
    #[must_use]
    pub fn syslog(&self) -> Syslog {
        Syslog::open()
    }

    fn create(install: Install) -> Self {
        let stage =
            std::env::var_os("PORTGRANT_TESTS").expect("these tests need namespaces: start them with tests/run");
        let stage = PathBuf::from(stage);
        let apart =
            CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS;
        unshare(apart).expect("namespaces of the world's own");
        umask(Mode::from_bits_truncate(0o022));
        sethostname("news").expect("sethostname");

        let root = stage.join("world");
        furnish(&root, &stage.join("root"));
        install_programs(&root, &stage.join("programs"));
        enter(&root);

        let world = Self { install, is_apart: true };
        add_accounts();
        world.file("/etc/hosts", HOSTS);
        tool("ip", &["link", "set", "lo", "up"]);
        match install {
            Install::Setuid => tool("chmod", &["4755", BINDER]),
            Install::FileCapability => tool("setcap", &["cap_net_bind_service=p", BINDER]),
        }
        world
    }
}

impl Drop for World {
    /// Kills whatever shares a namespace with this thread: daemons have left their parents, but not their world.
    fn drop(&mut self) {
        if !self.is_apart {
            return;
        }
        let here = processes::namespaces("thread-self");
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let alive = processes::all().into_iter().filter(|&pid| pid != process::id());
            let alive: Vec<u32> = alive.filter(|pid| !here.is_disjoint(&processes::namespaces(pid))).collect();
            if alive.is_empty() {
                return;
            }
            if Instant::now() > deadline {
                return eprintln!("still alive after SIGKILL: {alive:?}");
            }
            for pid in alive {
                let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Builds the world's root file system in `root`, out of the Debian in `debian`.
fn furnish(root: &Path, debian: &Path) {
    mounted("tmpfs", root, "tmpfs", MsFlags::empty());
    for folder in ["usr", "proc", "dev", "dev/shm", "run", "tmp", "home", "root", "old"] {
        fs::create_dir(root.join(folder)).unwrap_or_else(|e| panic!("mkdir {folder}: {e}"));
    }
    for folder in ["tmp", "dev/shm"] {
        fs::set_permissions(root.join(folder), fs::Permissions::from_mode(0o1777)).expect("chmod");
    }
    for link in ["bin", "sbin", "lib", "lib64"] {
        symlink(format!("usr/{link}"), root.join(link)).expect("symlink");
    }
    tool("cp", &["-a".as_ref(), debian.join("etc").as_ref(), debian.join("var").as_ref(), root.as_os_str()]);

    mounted(debian.join("usr"), &root.join("usr"), "", MsFlags::MS_BIND);
    for own in ["usr/libexec", "usr/local"] {
        mounted("tmpfs", &root.join(own), "tmpfs", MsFlags::empty());
    }
    // From Debian 13 on gcc's compiler is here.
    let (gcc, place) = (debian.join("usr/libexec/gcc"), root.join("usr/libexec/gcc"));
    if gcc.exists() {
        fs::create_dir(&place).expect("a place for gcc");
        mounted(gcc, &place, "", MsFlags::MS_BIND);
        mounted("", &place, "", MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY);
    }
    mounted("", &root.join("usr"), "", MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY);
    mounted("/proc", &root.join("proc"), "", MsFlags::MS_BIND | MsFlags::MS_REC);
    for device in ["dev/null", "dev/zero", "dev/full", "dev/random", "dev/urandom", "dev/tty"] {
        fs::write(root.join(device), "").expect("a place for a device");
        mounted(Path::new("/").join(device), &root.join(device), "", MsFlags::MS_BIND);
    }
    symlink("/proc/self/fd", root.join("dev/fd")).expect("symlink");
    fs::create_dir(root.join("dev/pts")).expect("a place for terminals");
    mounted("devpts", &root.join("dev/pts"), "devpts", MsFlags::empty());
    symlink("pts/ptmx", root.join("dev/ptmx")).expect("symlink");
}

/// Installs what was built. By programs of their own: a file that this process had open for writing could be found
/// busy (ETXTBSY) when it is executed, as another test's child may just have inherited the descriptor.
fn install_programs(root: &Path, programs: &Path) {
    for entry in fs::read_dir(programs).expect("the built programs") {
        let from = entry.expect("a built program").path();
        let name = from.file_name().expect("a file").to_str().expect("a plain name");
        let folder = match name {
            "portgrant-kernel" => "/usr/local/sbin",
            name if BESIDE_THE_BINDER.contains(&name) => "/usr/libexec/portgrant",
            _ => "/usr/local/bin",
        };
        let name = if name == "portgrant-front" { "portgrant" } else { name };
        let to = format!("{folder}/{name}");
        let to = root.join(to.trim_start_matches('/'));
        tool("install", &["-Do0".as_ref(), "-g0".as_ref(), "-m0755".as_ref(), from.as_os_str(), to.as_os_str()]);
    }
}

/// Makes `root` the root of this thread. Not by chroot(2): in one, user namespaces cannot be made (see unshare(2)).
fn enter(root: &Path) {
    pivot_root(root, &root.join("old")).expect("pivot_root");
    chdir("/").expect("chdir");
    umount2("/old", MntFlags::MNT_DETACH).expect("umount");
    fs::remove_dir("/old").expect("rmdir");
}

fn add_accounts() {
    for (path, lines) in [("/etc/passwd", USERS), ("/etc/group", GROUPS)] {
        let mut file = fs::OpenOptions::new().append(true).open(path).expect(path);
        file.write_all(lines.as_bytes()).expect(path);
    }
    for user in ["alice", "bob"] {
        let (home, account) = (format!("/home/{user}"), Account::named(user));
        fs::create_dir(&home).expect("a home");
        chown(home, Some(account.uid), Some(account.gid)).expect("chown");
    }
}

fn mounted(source: impl AsRef<Path>, target: &Path, kind: &str, flags: MsFlags) {
    let options = match kind {
        "tmpfs" => Some("mode=0755"),
        "devpts" => Some("newinstance,ptmxmode=0666,mode=0620"),
        _ => None,
    };
    mount(Some(source.as_ref()), target, Some(kind), flags, options)
        .unwrap_or_else(|e| panic!("mount {} on {}: {e}", source.as_ref().display(), target.display()));
}

fn tool<A: AsRef<std::ffi::OsStr>>(program: &str, args: &[A]) {
    let mut command = Command::new(program);
    command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = birth::forking(|| command.spawn());
    let output = child.and_then(Child::wait_with_output).unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}
