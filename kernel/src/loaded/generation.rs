//! The maps of a generation: their shapes, and how they are filled and activated.

use rustix::fs;
use rustix::io::Errno;

use super::LOOKUP;
use super::pins::Pins;
use crate::Error;
use crate::bpf::{Kind, Map, ReadOnly, Shape};
use crate::description::Description;
use crate::layout::{Pages, bucket, counter, group, port, ring};
use crate::rows::Rows;
use crate::tables::{self, Tables};

pub(super) const PORTS: Shape<'_> = Shape {
    kind: Kind::Array,
    name: "portgrant_ports",
    key: 4,
    value: port::SIZE,
    entries: tables::PORTS,
    read_only: ReadOnly::Yes,
};
pub(super) const BUCKETS: Shape<'_> =
    Shape { name: "portgrant_page", value: bucket::SIZE, entries: 1 << bucket::PAGES.bits, ..PORTS };
pub(super) const GROUPS: Shape<'_> = Shape { value: group::SIZE, entries: 1 << group::PAGES.bits, ..BUCKETS };
pub(super) const POLICY: Shape<'_> =
    Shape { kind: Kind::Maps, name: "portgrant_slot", key: 4, value: 4, entries: 1, read_only: ReadOnly::No };
pub(super) const BUCKET_PAGES: Shape<'_> =
    Shape { entries: 2 * bucket::PAGES.most as usize, name: "portgrant_cells", ..POLICY };
pub(super) const GROUP_PAGES: Shape<'_> =
    Shape { entries: 2 * group::PAGES.most as usize, name: "portgrant_addrs", ..POLICY };
pub(super) const GRANTS: Shape<'_> = Shape {
    kind: Kind::Ring,
    name: "portgrant_log",
    key: 0,
    value: 0,
    entries: ring::SIZE as usize,
    read_only: ReadOnly::No,
};
pub(super) const COUNTERS: Shape<'_> = Shape {
    kind: Kind::Array,
    name: "portgrant_count",
    key: 4,
    value: counter::SIZE,
    entries: 1,
    read_only: ReadOnly::No,
};
pub(super) const REPORTED: Shape<'_> = Shape { name: "portgrant_lost", value: 8, ..COUNTERS };

/// The arrays of maps that have the maps of both generations.
#[derive(Debug)]
pub(super) struct Slots {
    pub(super) policy: Map,
    pub(super) buckets: Map,
    pub(super) groups: Map,
}

impl Slots {
    /// Each with the name of its pin.
    pub(super) fn named(&self) -> [(&Map, &'static str); 3] {
        [(&self.policy, "policy"), (&self.buckets, "buckets"), (&self.groups, "groups")]
    }

    /// Releases all pages of a generation.
    pub(super) fn clear(&self, generation: u32) -> Result<(), Error> {
        for (pages, all) in [(bucket::PAGES, &self.buckets), (group::PAGES, &self.groups)] {
            for number in pages.of(generation) {
                let key = number.to_ne_bytes();
                // Removing may wait for all running programs, even without a page. So check first whether there is one.
                if all.read(&key).map_err(|errno| Error::Call { call: LOOKUP, errno })?.is_some() {
                    all.remove(&key).map_err(|errno| Error::Call { call: "bpf(BPF_MAP_DELETE_ELEM)", errno })?;
                }
            }
        }
        Ok(())
    }
}

/// Makes the maps of a generation, and activates it as the last step.
pub(super) fn fill(pins: &Pins, slots: &Slots, tables: &Tables, description: &mut Description) -> Result<(), Error> {
    let rows = Rows::of(tables, description.generation);
    // Rows that an interrupted reload left there are not used.
    slots.clear(description.generation)?;
    write(&slots.buckets, bucket::PAGES, BUCKETS, description.generation, rows.buckets())?;
    write(&slots.groups, group::PAGES, GROUPS, description.generation, rows.groups())?;
    let ports = create(PORTS, None)?;
    set_all(&ports, rows.ports())?;
    description.map = ports.id();
    let text = description.to_bytes();
    let map = create(Shape { value: text.len(), name: "portgrant_info", ..COUNTERS }, None)?;
    set(&map, &0u32.to_ne_bytes(), &text)?;
    let name = format!("description-{}", description.generation);
    let _ = fs::unlink(pins.path(&name));
    pins.pin(&map, &name)?;
    put(&slots.policy, 0, &ports)
}

/// Writes the rows of a generation into `all`, page by page.
fn write<const SIZE: usize>(
    all: &Map,
    pages: Pages,
    page: Shape<'_>,
    generation: u32,
    rows: impl Iterator<Item = Option<[u8; SIZE]>>,
) -> Result<(), Error> {
    let mut left = rows.peekable();
    for number in pages.of(generation) {
        if left.peek().is_none() {
            break;
        }
        let page = create(page, None)?;
        let here = (0..1 << pages.bits).zip(left.by_ref());
        set_all(&page, here.filter_map(|(index, row)| Some((index, row?))))?;
        put(all, number, &page)?;
    }
    Ok(())
}

pub(super) fn set(map: &Map, key: &[u8], value: &[u8]) -> Result<(), Error> {
    map.set(key, value).map_err(|errno| Error::Call { call: "bpf(BPF_MAP_UPDATE_ELEM)", errno })
}

pub(super) fn set_all<const SIZE: usize>(
    map: &Map,
    elements: impl Iterator<Item = (u32, [u8; SIZE])>,
) -> Result<(), Error> {
    map.set_all(elements).map_err(|errno| Error::Call { call: "bpf(BPF_MAP_UPDATE_BATCH)", errno })
}

pub(super) fn create(shape: Shape<'_>, inner: Option<&Map>) -> Result<Map, Error> {
    Map::create(shape, inner).map_err(|errno| match errno {
        Errno::PERM => Error::NoPrivilege,
        errno => Error::Call { call: "bpf(BPF_MAP_CREATE)", errno },
    })
}

pub(super) fn put(slots: &Map, index: u32, map: &Map) -> Result<(), Error> {
    slots.put(index, map).map_err(|errno| Error::Call { call: "bpf(BPF_MAP_UPDATE_ELEM)", errno })
}
