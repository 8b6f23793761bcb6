//! The places that the program's jumps go to.

/// A place of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Label {
    /// The kernel decides, and nothing is counted
    Pass,
    /// Somebody has a permit for this port, but not the caller: counted, then as [`Label::Pass`]
    Refused,
    /// The protocol is tcp or udp
    KnownProtocol,
    /// The ring has room for a record
    Room,
    /// The ring was full before, and still is
    NoRoom,
    /// The ring has become full
    Full,
    /// The element that [`super::probe`] looks for is not found
    Missing,
    /// A place of one part
    Of(Part, Place),
}

/// A part of the program: it searches the rules of a subject, or the class of a subordinate id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Anybody,
    User,
    Group,
    SubordinateUser,
    SubordinateGroup,
    ClassOfUser,
    ClassOfGroup,
}

/// A place that more than one part has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// The end of the part
    Done,
    /// R1 has the subject's outcome
    Outcome,
    /// The port has too many users for its own entry
    ManyUsers,
    /// This user of the port's own entry is the caller
    PortsUser(i16),
    /// This cell of the bucket has the key
    Cell(usize),
    /// After the lookup in this table
    AfterTable(u8),
    /// The outcome is not a set of addresses
    NoSet,
    /// `::1` is in the first boundary of all
    FirstOfAll,
    /// The verdict for IPv6 is known
    Ipv6Known,
    /// The socket sends from one family alone
    OneFamily,
    /// The search decides this bit of the group's number
    Step(u32),
    /// The key is before the group of this step
    Before(u32),
    /// The end of this step
    AfterStep(u32),
    /// The group is found
    Group,
    /// The lower two boundaries of the group
    LowerHalf,
    /// Its upper two
    UpperHalf,
    /// The key is in the interval of this boundary
    Boundary(i16),
    /// R1 has the verdict
    Found,
}

impl Part {
    /// The `place` of this part.
    pub(super) fn at(self, place: Place) -> Label {
        Label::Of(self, place)
    }
}
