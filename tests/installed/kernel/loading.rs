//! Loading and unloading: who may do it, what each leaves, and what is reported.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::time::Duration;

use portgrant_kernel::bpf::{self, Kind, Map, ReadOnly, Shape};
use portgrant_kernel::description::Description;
use portgrant_tests::KERNEL;

use super::*;

/// PG-24
#[test]
fn only_two_capabilities_are_left_before_anything_is_read() {
    with_kernel_mode(|world, cgroup| {
        world.policy("permit alice 80 on 127.0.0.1\n");
        let path = cgroup.path().to_str().expect("a plain path");
        let calls = "--trace=capset,prctl,openat,open,bpf,getsockopt,mkdir";
        let traced = ["strace", "-v", "-s0", "-o", "/tmp/strace", calls, KERNEL, "load", "--cgroup", path];
        world.as_root().run(traced).succeeds();
        let record = fs::read_to_string("/tmp/strace").expect("a record");
        let both = "1<<CAP_NET_ADMIN|1<<CAP_BPF";
        let mut effective = "everything".to_owned();
        let (mut loaded, mut read) = (0, 0);
        for line in record.lines() {
            if line.starts_with("capset(") {
                let sets = line.split('{').nth(2).expect("sets");
                effective =
                    sets.split("effective=").nth(1).and_then(|rest| rest.split(',').next()).expect("a set").into();
                let permitted = sets.split("permitted=").nth(1).and_then(|rest| rest.split(',').next()).expect("a set");
                assert!([both, "0"].contains(&permitted) && line.ends_with("= 0"), "{line}");
            } else if line.starts_with("bpf(") {
                assert_eq!(effective, both, "{line}");
                loaded += 1;
            } else if line.contains("\"/etc\"")
                || line.contains("\"portgrant.conf\"")
                || line.contains("/sys/fs/cgroup")
            {
                assert_eq!(effective, "0", "{line}");
                read += 1;
            }
        }
        assert!(loaded > 10 && read > 0 && effective == "0", "{record}");
        assert!(record.contains("prctl(PR_SET_NO_NEW_PRIVS, 1"), "{record}");
    });
}

/// PG-24
#[test]
fn only_root_loads_and_pins_of_others_are_not_trusted() {
    with_kernel_mode(|world, cgroup| {
        world.policy("permit alice 80\n");
        let path = cgroup.path().to_str().expect("a plain path");
        for verb in [&["load", "--cgroup", path][..], &["show"], &["unload"], &["reload"]] {
            let outcome = world.as_user("alice").run([&[KERNEL], verb].concat());
            outcome.exits(77).complains("run it as root");
        }
        let folder = "/sys/fs/bpf/portgrant";
        fs::create_dir(folder).expect("a folder");
        chown(folder, Some(1000), Some(1000)).expect("chown");
        for mode in [0o755, 0o700] {
            fs::set_permissions(folder, fs::Permissions::from_mode(mode)).expect("chmod");
            load(world, cgroup, &[])
                .exits(78)
                .complains("the pinned files are not trusted")
                .complains("it does not belong to root");
        }
        chown(folder, Some(0), Some(0)).expect("chown");
        fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).expect("chmod");
        load(world, cgroup, &[]).exits(78).complains("users other than root can enter it");
        fs::remove_dir(folder).expect("rmdir");
        load(world, cgroup, &[]).succeeds();
        let folder = fs::metadata(folder).expect("our folder");
        assert_eq!((folder.uid(), folder.mode() & 0o777), (0, 0o700));
        for pin in fs::read_dir("/sys/fs/bpf/portgrant").expect("our folder").flatten() {
            assert_eq!(pin.metadata().expect("a pin").mode() & 0o077, 0, "{:?}", pin.path());
        }
    });
}

#[test]
fn missing_things_and_wrong_arguments_are_reported() {
    with_kernel_mode(|world, cgroup| {
        world.policy("permit alice 80\n");
        kernel(world, &[]).exits(64).complains("no command is given");
        kernel(world, &["lode"]).exits(64).complains("'lode'");
        kernel(world, &["--help"]).succeeds().prints("portgrant-kernel load --cgroup").prints("Exit status");
        kernel(world, &["--version"]).succeeds().prints("portgrant-kernel 0.");
        kernel(world, &["load", "--cgroup", "/tmp"]).exits(69).complains("/tmp is not a cgroup");
        kernel(world, &["load", "--cgroup", "/sys/fs/cgroup/none"]).exits(69).complains("No such file");
        let path = cgroup.path().to_str().expect("a plain path");
        kernel(world, &["load", "--cgroup", path, "--dry-run"])
            .succeeds()
            .prints("rules: 1, ports: 1, entries: 1, intervals of addresses: 0");
        kernel(world, &["show"]).exits(69);
        world.as_root().run(["umount", "/sys/fs/bpf"]).succeeds();
        load(world, cgroup, &[]).exits(69).complains("mount -t bpf -o mode=0700 bpf /sys/fs/bpf");
    });
}

#[test]
fn a_removed_cgroup_is_reported() {
    with_kernel_mode(|world, cgroup| {
        world.policy("permit alice 80\n");
        let below = cgroup.path().join("below");
        fs::create_dir(&below).expect("a cgroup");
        kernel(world, &["load", "--cgroup", below.to_str().expect("a plain path")]).succeeds();
        fs::remove_dir(&below).expect("rmdir");
        // The kernel takes the links down when it gets to it.
        let mut attempts = 1000;
        while !kernel(world, &["show"]).succeeds().stdout.contains("NOTHING IS GRANTED") {
            assert!(attempts > 0, "{}", kernel(world, &["show"]));
            attempts -= 1;
            std::thread::sleep(Duration::from_millis(10));
        }
        kernel(world, &["reload"]).exits(69).complains("the policy is no longer attached");
        kernel(world, &["unload"]).succeeds();
    });
}

/// PG-23
#[test]
fn unload_leaves_nothing() {
    with_kernel_mode(|world, cgroup| {
        let asked = "1000 1000 tcp 4 127.0.0.1 80";
        for verb in ["show", "reload", "unload", "audit"] {
            kernel(world, &[verb]).exits(69).complains("no policy is loaded");
        }
        world.policy("permit alice 80\n");
        for _ in 0..2 {
            load(world, cgroup, &[]).succeeds();
            load(world, cgroup, &[]).exits(69).complains("a policy is loaded already");
            expect(world, cgroup, &[(asked, "bound")]);
            kernel(world, &["unload"]).succeeds().complains("the last grants were not read");
            expect(world, cgroup, &[(asked, "EACCES")]);
            kernel(world, &["show"]).exits(69).complains("no policy is loaded");
            let left = fs::read_dir("/sys/fs/bpf").expect("a BPF file system").flatten();
            let left: Vec<_> = left.map(|entry| entry.file_name()).filter(|name| name != "maps.debug").collect();
            assert!(left.iter().all(|name| name == "progs.debug"), "{left:?}");
        }
    });
}

/// PG-23
#[test]
fn a_policy_that_another_version_loaded_does_not_get_this_ones_tables() {
    with_kernel_mode(|world, cgroup| {
        let holds = [("1000 1000 tcp 4 127.0.0.1 80", "bound")];
        let another = || {
            for verb in ["show", "reload", "audit"] {
                kernel(world, &[verb]).exits(69).complains("another version of portgrant-kernel loaded the policy");
            }
            expect(world, cgroup, &holds);
            kernel(world, &["unload"]).succeeds();
        };
        world.policy("permit alice 80\n");
        load(world, cgroup, &[]).succeeds();
        let pin = c"/sys/fs/bpf/portgrant/description-1";
        let told = Map::open(pin).and_then(|map| map.read(&[0; 4])).expect("what is known of it").expect("an element");
        let mut about = Description::from_bytes(&told).expect("this version's");
        about.program += 1;
        let told = about.to_bytes();
        let shape =
            Shape { kind: Kind::Array, name: "about", key: 4, value: told.len(), entries: 1, read_only: ReadOnly::No };
        let map = Map::create(shape, None).expect("a map");
        map.set(&[0; 4], &told).expect("an element");
        fs::remove_file("/sys/fs/bpf/portgrant/description-1").expect("a pin");
        bpf::pin(map.as_fd(), pin).expect("a pin");
        another();
        load(world, cgroup, &[]).succeeds();
        fs::remove_file("/sys/fs/bpf/portgrant/buckets").expect("a pin");
        another();
    });
}

/// PG-23
#[test]
fn an_interrupted_load_is_reported_and_cleared_by_unload_and_load() {
    with_kernel_mode(|world, cgroup| {
        world.policy("permit alice 80\n");
        load(world, cgroup, &[]).succeeds();
        // As if the loader had been killed in the middle.
        let interrupted = || {
            fs::remove_file("/sys/fs/bpf/portgrant/bind6").expect("a pin");
            kernel(world, &["show"]).exits(78).complains("was interrupted");
            kernel(world, &["reload"]).exits(78).complains("portgrant-kernel unload removes it");
        };
        interrupted();
        kernel(world, &["unload"]).succeeds();
        expect(world, cgroup, &[("1000 1000 tcp 4 127.0.0.1 80", "EACCES")]);
        load(world, cgroup, &[]).succeeds();
        interrupted();
        load(world, cgroup, &[]).succeeds();
        expect(world, cgroup, &[("1000 1000 tcp 4 127.0.0.1 80", "bound"), ("1000 1000 tcp 6 ::1 80", "bound")]);
        kernel(world, &["unload"]).succeeds();
        expect(world, cgroup, &[("1000 1000 tcp 4 127.0.0.1 80", "EACCES")]);
    });
}
