//! A web server that replaces itself without refusing a connection:
//! `generations [--daemon] [--pid-file FILE] [--control FILE] [--workers N] [--start SECONDS] [--drain SECONDS] [--upgrade-on-hangup] ENDPOINT…`.
//! `generations --upgrade CONTROL` asks a running server to replace itself, and prints the result.
//!
//! An ENDPOINT `@FILE` stands for the endpoints in FILE, one in each line. Each generation reads the file again.
//!
//! ```text
//! $ portgrant exec -l 80 -- generations --control /tmp/control 80 &
//! $ install -m 755 generations.new "$(command -v generations)"
//! $ generations --upgrade /tmp/control         # or: kill -USR2 %1
//! generation 2, process 4711, took over
//! $ curl http://127.0.0.1/
//! generation 2 of version 1, process 4711, begun by process 4242
//! ```
//! `/drip/N` is a download of N KiB, one every hundredth of a second; `/hang` never ends.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use portgrant_server::daemon::Daemon;
use portgrant_server::error::ListenerError;
use portgrant_server::restart::{Drain, Generation, Order, Serving, Token, ask};
use portgrant_server::{CloseLimits, Error, Event, Listeners, Notify, Socket, close_gracefully};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};

/// The part that another version of this program would change.
const VERSION: &str = "version 1";
/// How long a client may be silent between two requests, and how long after this process was asked to end.
const IDLE: Duration = Duration::from_secs(30);
const LAST_REQUEST: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Options {
    daemon: bool,
    pid_file: Option<PathBuf>,
    control: Option<PathBuf>,
    upgrade: Option<PathBuf>,
    workers: Option<usize>,
    start: Option<Duration>,
    drain: Option<Duration>,
    hangup: bool,
    endpoints: Vec<String>,
}

fn main() -> ExitCode {
    let options = match Options::read(std::env::args().skip(1)) {
        Some(options) => options,
        None => {
            eprintln!(
                "generations: expected [--daemon] [--pid-file FILE] [--control FILE] ENDPOINT..., or --upgrade CONTROL"
            );
            return ExitCode::from(portgrant_server::status::USAGE);
        }
    };
    if let Some(control) = &options.upgrade {
        return match ask(control, Duration::from_secs(120)) {
            Ok(upgraded) => {
                println!("{upgraded}");
                ExitCode::SUCCESS
            }
            Err(error) => failed(&error),
        };
    }
    match Generation::begin() {
        Ok(generation) => run(generation, &options),
        Err(error) => failed(&error),
    }
}

fn failed(error: &Error) -> ExitCode {
    eprintln!("generations: {error}");
    ExitCode::from(error.status())
}

impl Options {
    fn read(mut words: impl Iterator<Item = String>) -> Option<Options> {
        let mut options = Options::default();
        while let Some(word) = words.next() {
            let seconds = |text: String| text.parse().ok().map(Duration::from_secs_f64);
            match word.as_str() {
                "--daemon" => options.daemon = true,
                "--upgrade-on-hangup" => options.hangup = true,
                "--pid-file" => options.pid_file = Some(words.next()?.into()),
                "--control" => options.control = Some(words.next()?.into()),
                "--upgrade" => options.upgrade = Some(words.next()?.into()),
                "--workers" => options.workers = Some(words.next()?.parse().ok()?),
                "--start" => options.start = Some(seconds(words.next()?)?),
                "--drain" => options.drain = Some(seconds(words.next()?)?),
                _ => options.endpoints.push(word),
            }
        }
        (options.upgrade.is_some() || !options.endpoints.is_empty()).then_some(options)
    }
}

fn run(generation: Generation, options: &Options) -> ExitCode {
    let mut generation = generation;
    if let Some(limit) = options.start {
        generation = generation.start_limit(limit);
    }
    if let Some(limit) = options.drain {
        generation = generation.drain_limit(limit);
    }
    if options.hangup {
        generation = generation.upgrade_on_hangup();
    }
    let (serving, workers, greeting) = match begin(&mut generation, options) {
        Ok((workers, greeting)) => match generation.ready() {
            Ok(serving) => (serving, workers, greeting),
            Err(error) => return failed(&error),
        },
        Err(error) => {
            eprintln!("generations: {error}");
            return generation.fail(error.status(), error);
        }
    };
    let (drain, greeting) = (serving.drain(), Arc::<str>::from(greeting));
    for listeners in workers {
        // Each accept loop has a token. After the last token is dropped, nothing is accepted.
        let (drain, token, greeting) = (drain.clone(), drain.token(), Arc::clone(&greeting));
        thread::spawn(move || accept(listeners, &drain, &token, &greeting));
    }
    match supervise(serving) {
        Ok(status) => status,
        Err(error) => failed(&error),
    }
}

/// Everything that can fail at the start.
fn begin(generation: &mut Generation, options: &Options) -> Result<(Vec<Listeners>, String), Error> {
    match &options.pid_file {
        Some(path) if options.daemon => generation.daemon(Daemon::new().pid_file(path).keep_output())?,
        Some(path) => generation.pid_file(path)?,
        None if options.daemon => generation.daemon(Daemon::new().keep_output())?,
        None => {}
    }
    if let Some(path) = &options.control {
        generation.control(path)?;
    }
    let count = options.workers.unwrap_or(1).max(1);
    let mut workers = Vec::new();
    for _ in 0..count {
        workers.push(Listeners::new()?);
    }
    for endpoint in endpoints(&options.endpoints)? {
        let sockets = match options.workers {
            Some(workers) => generation.group(&endpoint, workers)?,
            None => vec![generation.listen(&endpoint)?],
        };
        for (number, socket) in sockets.into_iter().enumerate() {
            add(&mut workers[number % count], socket)?;
        }
    }
    let origin = origin(generation)?;
    let (number, own) = (generation.number(), std::process::id());
    Ok((workers, format!("generation {number} of {VERSION}, process {own}, begun by process {origin}\n")))
}

fn endpoints(words: &[String]) -> Result<Vec<String>, Error> {
    let mut endpoints = Vec::new();
    for word in words {
        match word.strip_prefix('@') {
            None => endpoints.push(word.clone()),
            Some(file) => {
                let failed = |source| Error::system("cannot read the list of endpoints", source);
                let text = std::fs::read_to_string(file).map_err(failed)?;
                endpoints.extend(text.lines().map(str::to_owned));
            }
        }
    }
    Ok(endpoints)
}

fn add(listeners: &mut Listeners, socket: Socket) -> Result<(), Error> {
    let name = socket.name().to_owned();
    if socket.info()?.protocol.is_stream() {
        listeners.tcp(&name, socket.into_tcp()?)
    } else {
        listeners.udp(&name, socket.into_udp()?)
    }
}

/// The pid of the first generation, which a memfd passes on to each later one.
fn origin(generation: &mut Generation) -> Result<u32, Error> {
    let failed = |source: io::Error| Error::system("cannot read or write a memfd", source);
    let state: OwnedFd = match generation.state("origin") {
        Some(state) => state,
        None => {
            let made = memfd_create("origin", MemfdFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?;
            let file = File::from(made);
            file.write_all_at(&std::process::id().to_ne_bytes(), 0).map_err(failed)?;
            file.into()
        }
    };
    generation.keep("origin", &state)?;
    let mut bytes = [0; 4];
    File::from(state).read_exact_at(&mut bytes, 0).map_err(failed)?;
    Ok(u32::from_ne_bytes(bytes))
}

fn supervise(mut serving: Serving) -> Result<ExitCode, Error> {
    loop {
        match next_order(&mut serving)? {
            Order::Reload => {}
            Order::Failed(error) => eprintln!("generations: {error}"),
            Order::Retire(upgraded) => {
                eprintln!("generations: {upgraded}");
                break;
            }
            Order::Finish => break,
            Order::Terminate => return Ok(ExitCode::SUCCESS),
        }
    }
    match serving.finish()? {
        0 => Ok(ExitCode::SUCCESS),
        left => {
            eprintln!("generations: {left} connections were not finished");
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Waits for an order, and notifies the service manager often enough that this process is alive (`WatchdogSec=`).
fn next_order(serving: &mut Serving) -> Result<Order, Error> {
    let interval = serving.manager().and_then(Notify::watchdog_interval);
    let Some(pause) = interval.and_then(|interval| Timespec::try_from(interval / 2).ok()) else {
        return serving.wait();
    };
    loop {
        if let Some(order) = serving.pending()? {
            return Ok(order);
        }
        if let Some(manager) = serving.manager() {
            manager.watchdog()?;
        }
        // poll(2) may also be interrupted by a signal: check for an order anyway.
        let _ = poll(&mut [PollFd::new(&*serving, PollFlags::IN)], Some(&pause));
    }
}

fn accept(mut listeners: Listeners, drain: &Drain, token: &Token, greeting: &Arc<str>) {
    drain.stop(listeners.stopper());
    loop {
        match listeners.event() {
            Ok(Event::Connection(client)) => {
                let (token, greeting) = (token.clone(), Arc::clone(greeting));
                thread::spawn(move || converse(client.stream, &token, &greeting));
            }
            Ok(Event::Datagram(datagram)) => drop(datagram.reply(greeting.as_bytes())),
            Ok(Event::Stopped) => return,
            Ok(event) => eprintln!("generations: {event:?}"),
            Err(error) => {
                eprintln!("generations: {error}");
                // The other ports are still served.
                if !matches!(error.downcast_ref(), Some(ListenerError::Failed { .. })) {
                    return;
                }
            }
        }
    }
}

fn converse(stream: TcpStream, token: &Token, greeting: &str) {
    if let Ok(stream) = answers(stream, token, greeting) {
        let _ = close_gracefully(stream, CloseLimits { time: Duration::from_secs(1), ..CloseLimits::default() });
    }
}

/// Answers requests until the client ends, is silent for too long, or this process ends.
fn answers(stream: TcpStream, token: &Token, greeting: &str) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut requests = BufReader::new(&stream);
    loop {
        if requests.buffer().is_empty() && !is_asked(&stream, token)? {
            break;
        }
        let Some((path, keeps)) = request(&mut requests)? else { break };
        // Requests in progress are answered, with `Connection: close`.
        let keeps = keeps && !token.is_stopping();
        answer(&stream, &path, keeps, greeting)?;
        if !keeps {
            break;
        }
    }
    drop(requests);
    Ok(stream)
}

/// Whether another request comes. After this process was asked to end, a client has a moment for one more: the request
/// may already be on its way.
fn is_asked(stream: &TcpStream, token: &Token) -> io::Result<bool> {
    let limit = |time: Duration| Timespec::try_from(time).map_err(|_| io::ErrorKind::InvalidInput);
    if !token.is_stopping() {
        let mut both = [PollFd::new(stream, PollFlags::IN), PollFd::new(token, PollFlags::IN)];
        poll(&mut both, Some(&limit(IDLE)?))?;
        if !both[0].revents().is_empty() {
            return Ok(true);
        }
    }
    let asked =
        token.is_stopping() && poll(&mut [PollFd::new(stream, PollFlags::IN)], Some(&limit(LAST_REQUEST)?))? > 0;
    Ok(asked)
}

/// The path, and whether the client keeps the connection; `None` at its end.
fn request(requests: &mut impl BufRead) -> io::Result<Option<(String, bool)>> {
    let mut head = requests.take(8192);
    let mut first = String::new();
    if head.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    let mut keeps = first.trim_end().ends_with("HTTP/1.1");
    loop {
        let mut line = String::new();
        if head.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line.eq_ignore_ascii_case("connection: close\r\n") {
            keeps = false;
        }
        if line.trim_end().is_empty() {
            return Ok(Some((first.split(' ').nth(1).unwrap_or("/").to_owned(), keeps)));
        }
    }
}

fn answer(mut stream: &TcpStream, path: &str, keeps: bool, greeting: &str) -> io::Result<()> {
    if path == "/hang" {
        loop {
            thread::park();
        }
    }
    let pieces: Option<usize> = path.strip_prefix("/drip/").and_then(|number| number.parse().ok());
    let length = pieces.map_or(greeting.len(), |pieces| pieces.saturating_mul(1024));
    let connection = if keeps { "keep-alive" } else { "close" };
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: {connection}\r\n\r\n");
    let Some(pieces) = pieces else { return stream.write_all(format!("{head}{greeting}").as_bytes()) };
    stream.write_all(head.as_bytes())?;
    for _ in 0..pieces {
        thread::sleep(Duration::from_millis(10));
        stream.write_all(&[b'.'; 1024])?;
    }
    Ok(())
}
