//! The numbers of bpf(2)'s commands, and their attributes as `union bpf_attr` of linux/bpf.h lays them out. The kernel
//! treats the rest of a shorter structure as zero.

pub(super) const MAP_CREATE: i64 = 0;
pub(super) const MAP_LOOKUP: i64 = 1;
pub(super) const MAP_UPDATE: i64 = 2;
pub(super) const MAP_DELETE: i64 = 3;
pub(super) const PROGRAM_LOAD: i64 = 5;
pub(super) const PROGRAM_TEST_RUN: i64 = 10;
pub(super) const PIN: i64 = 6;
pub(super) const GET: i64 = 7;
pub(super) const INFO: i64 = 15;
pub(super) const MAP_UPDATE_BATCH: i64 = 26;
pub(super) const LINK_CREATE: i64 = 28;
pub(super) const LINK_DETACH: i64 = 34;

pub(super) const READ_ONLY_FOR_PROGRAMS: u32 = 1 << 7;
/// BPF_F_MMAPABLE. It is only used because values then begin at a page, so that no value of 64 bytes is in two cache
/// lines.
pub(super) const ON_PAGES: u32 = 1 << 10;
pub(super) const SOCKET_FILTER: u32 = 1;
pub(super) const CGROUP_SOCK_ADDR: u32 = 18;
pub(super) const LINK_OF_A_CGROUP: u32 = 3;

#[repr(C)]
#[derive(Default)]
pub(super) struct CreateMap {
    pub(super) kind: u32,
    pub(super) key_size: u32,
    pub(super) value_size: u32,
    pub(super) max_entries: u32,
    pub(super) flags: u32,
    pub(super) inner_map_fd: u32,
    pub(super) numa_node: u32,
    pub(super) name: [u8; 16],
}

#[repr(C)]
pub(super) struct Element {
    pub(super) map_fd: u32,
    pub(super) padding: u32,
    pub(super) key: u64,
    pub(super) value: u64,
    pub(super) flags: u64,
}

#[repr(C)]
#[derive(Default)]
pub(super) struct Batch {
    pub(super) in_batch: u64,
    pub(super) out_batch: u64,
    pub(super) keys: u64,
    pub(super) values: u64,
    pub(super) count: u32,
    pub(super) map_fd: u32,
    pub(super) element_flags: u64,
    pub(super) flags: u64,
}

#[repr(C)]
#[derive(Default)]
pub(super) struct LoadProgram {
    pub(super) kind: u32,
    pub(super) count: u32,
    pub(super) instructions: u64,
    pub(super) license: u64,
    pub(super) log_level: u32,
    pub(super) log_size: u32,
    pub(super) log: u64,
    pub(super) kernel_version: u32,
    pub(super) flags: u32,
    pub(super) name: [u8; 16],
    pub(super) interface: u32,
    pub(super) expected_attach_type: u32,
}

#[repr(C)]
#[derive(Default)]
pub(super) struct TestRun {
    pub(super) program_fd: u32,
    pub(super) result: u32,
    pub(super) data_size: u32,
    pub(super) data_size_after: u32,
    pub(super) data: u64,
    pub(super) data_after: u64,
    pub(super) repeat: u32,
    pub(super) duration: u32,
}

#[repr(C)]
pub(super) struct AtPath {
    pub(super) path: u64,
    pub(super) fd: u32,
    pub(super) flags: u32,
}

#[repr(C)]
pub(super) struct Info {
    pub(super) fd: u32,
    pub(super) length: u32,
    pub(super) info: u64,
}

#[repr(C)]
pub(super) struct CreateLink {
    pub(super) program_fd: u32,
    pub(super) target_fd: u32,
    pub(super) attach_type: u32,
    pub(super) flags: u32,
}

/// The first fields of what the kernel reports about a map.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct MapInfo {
    pub(super) kind: u32,
    pub(super) id: u32,
    pub(super) key_size: u32,
    pub(super) value_size: u32,
    pub(super) max_entries: u32,
    pub(super) flags: u32,
}

#[repr(C)]
#[derive(Default)]
pub(super) struct LinkInfo {
    pub(super) kind: u32,
    pub(super) id: u32,
    pub(super) program: u32,
    pub(super) padding: u32,
    pub(super) cgroup: u64,
    pub(super) attach_type: u32,
}
