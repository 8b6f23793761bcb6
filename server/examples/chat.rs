//! A chat on several ports, with tokio: `chat [ROOM=ENDPOINT…]`. Each port is a room with that name.
//!
//! If portgrant or a service manager starts it, it serves on the sockets that it gets. Otherwise it asks for the
//! endpoints in its arguments, or for `lobby=98`. Each line goes to all others in the room; use telnet or `nc -C`.
//!
//! ```text
//! $ portgrant exec -l lobby=98 -l workshop=[::1]:99 -- chat &
//! $ telnet 127.0.0.1 98
//! lobby: you are 127.0.0.1:53022, with 2 others
//! ```

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use portgrant_server::error::ListenerError;
use portgrant_server::{
    AsyncListeners, CloseLimits, Connection, Error, Event, KeepAlive, Listeners, Signal, Signals, Sockets,
    StreamOptions, close_gracefully,
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::broadcast::{self, Receiver, Sender, WeakSender, error::RecvError};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// The most users at once. Others get a line that says so.
const PEOPLE: usize = 256;
/// The longest line, its end included, and how many lines may wait for a slow reader before some are lost.
const LINE: u64 = 512;
const LINES: usize = 64;
/// How long a user may be silent, and how long sending a line may take.
const SILENCE: Duration = Duration::from_secs(3600);
const WRITE: Duration = Duration::from_secs(10);
const LAST_LINES: CloseLimits = CloseLimits { time: Duration::from_secs(2), bytes: 64 << 10 };

/// The sender and the line: nobody gets their own lines.
type Said = (SocketAddr, Arc<str>);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match listeners(std::env::args().skip(1).collect()) {
        Ok(listeners) => match serve(listeners).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&error),
        },
        Err(error) => failed(&error),
    }
}

fn failed(error: &Error) -> ExitCode {
    eprintln!("chat: {error}");
    ExitCode::from(error.status())
}

fn listeners(mut rooms: Vec<String>) -> Result<AsyncListeners, Error> {
    if rooms.is_empty() {
        rooms.push("lobby=98".to_owned());
    }
    let sockets = match Sockets::inherited()? {
        Some(sockets) => sockets,
        None => Sockets::request(rooms)?,
    };
    let keep_alive = KeepAlive { idle: Duration::from_secs(60), interval: Duration::from_secs(10), count: 6 };
    let options = StreamOptions::new().keep_alive(keep_alive).user_timeout(keep_alive.notices_within());
    let mut listeners = Listeners::new()?;
    for socket in sockets {
        let name = socket.name().to_owned();
        println!("{name} at {}", socket.local()?);
        options.apply(&socket)?;
        listeners.tcp(&name, socket.into_tcp()?)?;
    }
    AsyncListeners::new(listeners)
}

async fn serve(mut listeners: AsyncListeners) -> Result<(), Error> {
    let mut signals = Signals::install()?;
    let mut rooms: BTreeMap<Arc<str>, Sender<Said>> = BTreeMap::new();
    let mut people = JoinSet::new();
    loop {
        let event = tokio::select! {
            event = listeners.event() => event,
            Some(_) = people.join_next() => continue,
            signal = signals.next() => match signal? {
                Signal::Terminate => break,
                Signal::Reload => continue,
            },
        };
        match event {
            Ok(Event::Connection(client)) if people.len() < PEOPLE => {
                let room = rooms.entry(Arc::clone(&client.name)).or_insert_with(|| broadcast::channel(LINES).0);
                // Announced here, so that the order of arrival is the same for everybody.
                let others = room.send(said(client.peer, "comes")).unwrap_or(0);
                people.spawn(visit(client, others, room.subscribe(), room.downgrade()));
            }
            Ok(Event::Connection(client)) => drop(client.stream.try_write(b"it is full, come back later\r\n")),
            Ok(_) => {}
            // The other rooms stay open.
            Err(error) if matches!(error.downcast_ref(), Some(ListenerError::Failed { .. })) => {
                eprintln!("chat: {error}");
            }
            Err(error) => return Err(error),
        }
    }
    // Dropping the rooms ends every conversation.
    drop((listeners, rooms));
    let _ = timeout(WRITE + LAST_LINES.time, people.join_all()).await;
    Ok(())
}

fn said(by: SocketAddr, what: &str) -> Said {
    (by, Arc::from(format!("{by} {what}\r\n")))
}

/// Serves one user.
async fn visit(client: Connection<TcpStream>, others: usize, heard: Receiver<Said>, room: WeakSender<Said>) {
    let Connection { name, mut stream, peer, .. } = client;
    let say = |what: &str| drop(room.upgrade().map(|room| room.send(said(peer, what))));
    let welcome = format!("{name}: you are {peer}, with {others} others\r\n");
    if stream.write_all(welcome.as_bytes()).await.is_ok() {
        let why = talk(&mut stream, peer, &say, heard).await;
        let _ = timeout(WRITE, stream.write_all(format!("bye: {why}\r\n").as_bytes())).await;
    }
    say("goes");
    // close_gracefully blocks, so it runs in a separate thread. With it, "bye" arrives even if unread lines were
    // waiting.
    if let Ok(stream) = stream.into_std() {
        let _ = tokio::task::spawn_blocking(move || close_gracefully(stream, LAST_LINES)).await;
    }
}

/// Runs until there is a reason to end, and returns it.
async fn talk(
    stream: &mut TcpStream,
    peer: SocketAddr,
    say: &impl Fn(&str),
    mut heard: Receiver<Said>,
) -> &'static str {
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::with_capacity(512, reader);
    let mut line = Vec::new();
    loop {
        let line_to_send = tokio::select! {
            read = timeout(SILENCE, read_line(&mut reader, &mut line)) => match read {
                Err(_) => return "you said nothing for long",
                Ok(Err(_)) => return "the connection failed",
                Ok(Ok(false)) if line.len() as u64 == LINE => return "that line was too long",
                Ok(Ok(false)) => return "you closed",
                Ok(Ok(true)) => {
                    // Control characters must not reach the terminals of others.
                    let text = String::from_utf8_lossy(line.trim_ascii_end()).replace(char::is_control, "?");
                    line.clear();
                    say(&format!("says {text}"));
                    continue;
                }
            },
            heard = heard.recv() => match heard {
                Ok((by, _)) if by == peer => continue,
                Ok((_, said)) => said,
                Err(RecvError::Lagged(lost)) => Arc::from(format!("({lost} lines were lost: you read slowly)\r\n")),
                Err(RecvError::Closed) => return "the chat ends",
            },
        };
        match timeout(WRITE, writer.write_all(line_to_send.as_bytes())).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return "you do not read",
        }
    }
}

/// Appends to `line` up to the end of a line. Returns whether the end came. If it is cancelled, the next call
/// continues.
async fn read_line(reader: &mut (impl AsyncBufReadExt + Unpin), line: &mut Vec<u8>) -> io::Result<bool> {
    let room = LINE.saturating_sub(line.len() as u64);
    reader.take(room).read_until(b'\n', line).await?;
    Ok(line.ends_with(b"\n"))
}
