//! The sources that wake the loop, as the data word that epoll(7) keeps for each descriptor.

use rustix::event::epoll::EventData;

/// A source that wakes the loop, as epoll's 64-bit data word.
pub(super) enum Wake {
    Signals,
    Lookups,
    Listener(usize),
    Datagrams(usize),
}

impl Wake {
    const KIND: u32 = 32;

    pub(super) fn data(&self) -> EventData {
        let (kind, number) = match *self {
            Wake::Signals => (0, 0),
            Wake::Lookups => (1, 0),
            Wake::Listener(number) => (2, number),
            Wake::Datagrams(number) => (3, number),
        };
        EventData::new_u64(kind << Self::KIND | number as u64)
    }

    pub(super) fn of(data: EventData) -> Wake {
        let word = data.u64();
        let number = usize::try_from(word & u64::from(u32::MAX)).unwrap_or(usize::MAX);
        match word >> Self::KIND {
            0 => Wake::Signals,
            1 => Wake::Lookups,
            2 => Wake::Listener(number),
            _ => Wake::Datagrams(number),
        }
    }
}
