//! The modes and the size of the two terminals (termios(3)): the caller's and the program's.

use std::os::fd::OwnedFd;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

use super::Terminal;

/// The modes while bytes pass as they are.
pub(super) struct Modes {
    output: Output,
    /// Those from before, while it is so
    before: Option<Termios>,
    /// Whether the program's terminal has got them
    are_copied: bool,
}

/// Who writes to the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    /// This process alone: the program's terminal has done what there is to do (OPOST)
    Own,
    /// Others as well, who expect the line feeds of theirs to begin a line
    Shared,
}

impl Modes {
    pub(super) fn new(output: Output) -> Modes {
        Modes { output, before: None, are_copied: false }
    }

    pub(super) fn are_raw(&self) -> bool {
        self.before.is_some()
    }

    /// The program's terminal gets the modes of the other once. To be called when they are meant for it: a shell that
    /// edits a line has its own while this process is in the background.
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
        // How a serial line sends bytes is not for us to change.
        raw.control_modes = before.control_modes;
        if self.output == Output::Shared {
            raw.output_modes = before.output_modes;
        }
        if tcsetattr(&terminal.0, OptionalActions::Now, &raw).is_ok() {
            self.before = Some(before);
        }
    }

    /// Not where somebody else has the terminal now: those are their modes.
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
