//! The modes and the size of the two terminals (termios(3)): the caller's and the program's.

use std::os::fd::OwnedFd;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

use super::Terminal;

/// The terminal modes during the relay.
pub(super) struct Modes {
    output: Output,
    /// The caller's modes, while the terminal is raw
    before: Option<Termios>,
    /// Whether they were copied to the program's terminal
    are_copied: bool,
}

/// The writers to the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    /// Only this process: the program's terminal has already processed the output (OPOST)
    Own,
    /// Other processes too, whose line feeds must still be processed
    Shared,
}

impl Modes {
    pub(super) fn new(output: Output) -> Modes {
        Modes { output, before: None, are_copied: false }
    }

    pub(super) fn are_raw(&self) -> bool {
        self.before.is_some()
    }

    /// Copies the caller's modes to the program's terminal, once. Call it in the foreground: otherwise the terminal has
    /// the modes of a shell that edits a line.
    pub(super) fn copy(&mut self, terminal: &Terminal, pty: &OwnedFd) {
        if !self.are_copied
            && let Ok(modes) = tcgetattr(&terminal.0)
        {
            self.are_copied = tcsetattr(pty, OptionalActions::Now, &modes).is_ok();
        }
    }

    pub(super) fn make_raw(&mut self, terminal: &Terminal) {
        if self.are_raw() {
            return;
        }
        let Ok(before) = tcgetattr(&terminal.0) else { return };
        let mut raw = before.clone();
        raw.make_raw();
        // Keep the settings of a serial line.
        raw.control_modes = before.control_modes;
        if self.output == Output::Shared {
            raw.output_modes = before.output_modes;
        }
        if tcsetattr(&terminal.0, OptionalActions::Now, &raw).is_ok() {
            self.before = Some(before);
        }
    }

    /// Restores the modes, unless another process group has the terminal now.
    pub(super) fn restore(&mut self, terminal: &Terminal) {
        if let Some(before) = self.before.take()
            && terminal.is_foreground()
        {
            let _ = tcsetattr(&terminal.0, OptionalActions::Now, &before);
        }
    }
}

pub(super) fn copy_size(terminal: &Terminal, pty: &OwnedFd) {
    let _ = tcgetwinsize(&terminal.0).and_then(|size| tcsetwinsize(pty, size));
}
