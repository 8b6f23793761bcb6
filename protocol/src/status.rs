//! Exit statuses, also used in records (`STATUS=`). From sysexits.h and env(1).

/// Success.
pub const OK: u8 = 0;
/// The command line or the request is wrong (`EX_USAGE`).
pub const USAGE: u8 = 64;
/// The address is in use or does not exist (`EX_UNAVAILABLE`).
pub const UNAVAILABLE: u8 = 69;
/// A system call failed (`EX_OSERR`).
pub const SYSTEM: u8 = 71;
/// The policy refuses it (`EX_NOPERM`).
pub const REFUSED: u8 = 77;
/// The policy or the installation is broken (`EX_CONFIG`).
pub const BROKEN: u8 = 78;
/// The program was found but could not be executed (env(1)).
pub const NOT_EXECUTABLE: u8 = 126;
/// The program was not found (env(1)).
pub const NOT_FOUND: u8 = 127;
