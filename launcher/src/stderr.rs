//! Standard error: all messages of the launcher go through here.
//!
//! By default a write waits if nobody reads. A launcher that serves connections must not wait, so after [`detach`] a
//! separate thread writes. Then a stopped terminal (Ctrl-S) or a full pipe only delays messages.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

/// How many messages may wait. More are counted and dropped.
const MOST: usize = 256;
/// How long the end of the process waits for messages that are not written yet.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);
/// The stack size of the thread that writes.
const STACK: usize = 64 * 1024;

/// The thread that writes, if there is one.
static PRINTER: RwLock<Option<&'static Printer>> = RwLock::new(None);

/// Writes `text` in one write.
pub(crate) fn print(text: &str) {
    match printer() {
        Some(printer) => printer.add(text),
        None => write(text),
    }
}

/// From now on a separate thread writes.
pub(crate) fn detach() -> io::Result<()> {
    let printer: &'static Printer = Box::leak(Box::default());
    thread::Builder::new().name("standard error".to_owned()).stack_size(STACK).spawn(move || printer.run())?;
    *PRINTER.write().unwrap_or_else(PoisonError::into_inner) = Some(printer);
    Ok(())
}

/// Undoes [`detach`]: the launcher ends, and its last messages must be written.
pub(crate) fn attach() {
    flush();
    *PRINTER.write().unwrap_or_else(PoisonError::into_inner) = None;
}

/// Waits until everything is written, for a limited time.
pub(crate) fn flush() {
    if let Some(printer) = printer() {
        printer.flush();
    }
}

fn printer() -> Option<&'static Printer> {
    *PRINTER.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(text: &str) {
    // A failure cannot be reported anywhere.
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Standard error as an [`io::Write`]. Each write is one message.
pub(crate) struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        print(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Default)]
struct Printer {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    texts: VecDeque<String>,
    /// How many messages were dropped since the last one that was added
    lost: u64,
    /// Whether a message is being written
    writing: bool,
}

impl Printer {
    fn add(&self, text: &str) {
        let mut queue = self.lock();
        if queue.texts.len() >= MOST {
            queue.lost += 1;
            return;
        }
        if queue.lost > 0 {
            let lost = std::mem::take(&mut queue.lost);
            queue.texts.push_back(format!("portgrant: {lost} messages are missing here: standard error was full\n"));
        }
        queue.texts.push_back(text.to_owned());
        self.changed.notify_all();
    }

    fn run(&self) {
        let mut queue = self.lock();
        loop {
            queue.writing = false;
            self.changed.notify_all();
            queue =
                self.changed.wait_while(queue, |queue| queue.texts.is_empty()).unwrap_or_else(PoisonError::into_inner);
            let Some(text) = queue.texts.pop_front() else { continue };
            queue.writing = true;
            drop(queue);
            write(&text);
            queue = self.lock();
        }
    }

    fn flush(&self) {
        let is_busy = |queue: &mut Queue| queue.writing || !queue.texts.is_empty();
        let _ = self.changed.wait_timeout_while(self.lock(), FLUSH_LIMIT, is_busy);
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_messages_are_counted_and_the_count_is_reported() {
        let printer = Printer::default();
        for number in 0..MOST + 2 {
            printer.add(&format!("{number}\n"));
        }
        assert_eq!(printer.lock().texts.len(), MOST);
        for _ in 0..2 {
            printer.lock().texts.pop_front();
        }
        printer.add("the next\n");
        let last: Vec<String> = printer.lock().texts.iter().skip(MOST - 2).cloned().collect();
        assert_eq!(last, ["portgrant: 2 messages are missing here: standard error was full\n", "the next\n"]);
    }
}
