//! Standard error: everything that the launcher reports to people goes through here.
//!
//! Whoever reports something writes it, and waits where nobody reads. A launcher that serves must not wait: after
//! [`detach`] a separate thread writes. A terminal that was stopped (Ctrl-S) and a pipe that is full then delay messages
//! and nothing else.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

/// How many messages wait for their reader at most. What comes then is counted and dropped.
const MOST: usize = 256;
/// How long the end of the process waits for the messages before it.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// The thread that writes needs next to nothing.
const STACK: usize = 64 * 1024;

/// The thread that writes, if there is one.
static PRINTER: RwLock<Option<&'static Printer>> = RwLock::new(None);

/// Writes `text`, in one piece among what others write.
pub(crate) fn print(text: &str) {
    match printer() {
        Some(printer) => printer.add(text),
        None => write(text),
    }
}

/// From now on nobody waits for standard error.
pub(crate) fn detach() -> io::Result<()> {
    let printer: &'static Printer = Box::leak(Box::default());
    thread::Builder::new().name("standard error".to_owned()).stack_size(STACK).spawn(move || printer.run())?;
    *PRINTER.write().unwrap_or_else(PoisonError::into_inner) = Some(printer);
    Ok(())
}

/// Undoes [`detach`]: the launcher ends, and what it has to say about that must be read.
pub(crate) fn attach() {
    flush();
    *PRINTER.write().unwrap_or_else(PoisonError::into_inner) = None;
}

/// Waits until everything is written, but not for long.
pub(crate) fn flush() {
    if let Some(printer) = printer() {
        printer.flush();
    }
}

fn printer() -> Option<&'static Printer> {
    *PRINTER.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(text: &str) {
    // There is nobody left to notify.
    let _ = io::stderr().write_all(text.as_bytes());
}

/// For what writes to an [`io::Write`]. Each write is one message.
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
    /// How many found no room since the last one that did
    lost: u64,
    /// One of them is being written
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
        let _ = self.changed.wait_timeout_while(self.lock(), LAST_WORDS, is_busy);
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
