//! A cgroup of the test's own, and what else the kernel mode needs in a world: the hierarchy, and a BPF file system.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};

use crate::world::World;

/// The hierarchy, as a world sees it: this machine's own.
const HIERARCHY: &str = "/sys/fs/cgroup";

/// A cgroup of cgroup v2. With the value everything in it ends, and it is removed.
#[derive(Debug)]
pub struct Cgroup(PathBuf);

impl World {
    /// A fresh cgroup; none if BPF programs cannot be loaded: that needs root of the machine's first user namespace.
    #[must_use]
    pub fn cgroup(&self) -> Option<Cgroup> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let ids = fs::read_to_string("/proc/self/uid_map").expect("uid_map");
        if ids.split_whitespace().ne(["0", "0", "4294967295"]) {
            return None;
        }
        for (kind, path, options) in [("cgroup2", HIERARCHY, None), ("bpf", "/sys/fs/bpf", Some("mode=0700"))] {
            if !fs::exists(path).expect(path) {
                fs::create_dir_all(path).expect(path);
                mount(Some("none"), path, Some(kind), MsFlags::empty(), options).expect(path);
            }
        }
        let name = format!("portgrant-tests-{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(HIERARCHY).join(name);
        fs::create_dir(&path).expect("a cgroup");
        Some(Cgroup(path))
    }
}

impl Cgroup {
    /// Its folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn processes(&self) -> File {
        fs::OpenOptions::new().write(true).open(self.0.join("cgroup.procs")).expect("cgroup.procs")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        let kill = fs::write(self.0.join("cgroup.kill"), "1");
        while let Err(error) = fs::remove_dir(&self.0) {
            if Instant::now() > deadline {
                return eprintln!("the cgroup {} stays: {error}, {kill:?}", self.0.display());
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}
