//! A web server with axum: `web [ENDPOINT…]`; the default is port 80.
//!
//! Each socket is inherited, bound, or requested from the helper. The socket with the name `status` shows a counter;
//! every other one serves the site. At SIGTERM, requests in progress are answered; then the server ends.
//!
//! ```text
//! $ portgrant exec -l http=80 -l status=127.0.0.1:81 -- web http=80 status=127.0.0.1:81 &
//! $ curl http://127.0.0.1/
//! hello, 127.0.0.1
//! ```
//!
//! Only the routes are axum's. `axum::serve` has no timeout for a request's head, and no limit on connections, so the
//! loop here replaces it.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::{Extension, State};
use axum::{Router, routing::get};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper::{Request, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use portgrant_server::error::ListenerError;
use portgrant_server::{
    AsyncListeners, Connection, Error, Event, KeepAlive, Listeners, Server, Signal, Signals, StreamOptions,
};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// How many clients at once; others wait in the kernel's queue.
const CONNECTIONS: usize = 1024;
/// How long a client may take to send a request's head, and so how long it may be silent.
const HEAD: Duration = Duration::from_secs(10);
/// The longest duration of a connection.
const LIFE: Duration = Duration::from_secs(300);
/// How long requests in progress may take at the end.
const LAST_ANSWERS: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> ExitCode {
    match serve(std::env::args().skip(1).collect()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("web: {error}");
            ExitCode::from(error.status())
        }
    }
}

async fn serve(mut endpoints: Vec<String>) -> Result<(), Error> {
    if endpoints.is_empty() {
        endpoints.push("http=80".to_owned());
    }
    let mut listeners = listeners(&endpoints)?;
    let mut signals = Signals::install()?;
    let (site, places) = (Site::default(), Arc::new(Semaphore::new(CONNECTIONS)));
    let ending = GracefulShutdown::new();
    loop {
        let (event, place) = tokio::select! {
            next = next(&mut listeners, &places) => next?,
            signal = signals.next() => match signal? {
                Signal::Terminate => break,
                Signal::Reload => continue,
            },
        };
        if let Event::Connection(client) = event {
            site.answer(client, place, &ending);
        } else if let Event::Exhausted { source, .. } = event {
            eprintln!("web: clients wait: {source}");
        }
    }
    drop(listeners); // new clients are refused at once
    if timeout(LAST_ANSWERS, ending.shutdown()).await.is_err() {
        eprintln!("web: some clients were not done within {} s", LAST_ANSWERS.as_secs());
    }
    Ok(())
}

fn listeners(endpoints: &[String]) -> Result<AsyncListeners, Error> {
    let keep_alive = KeepAlive { idle: Duration::from_secs(60), interval: Duration::from_secs(10), count: 6 };
    let options = StreamOptions::new().keep_alive(keep_alive).user_timeout(keep_alive.notices_within());
    let (mut server, mut listeners) = (Server::new()?, Listeners::new()?);
    for endpoint in endpoints {
        let socket = server.listen(endpoint)?;
        let (name, local, origin) = (socket.name().to_owned(), socket.local()?, socket.origin());
        options.apply(&socket)?;
        listeners.tcp(&name, socket.into_tcp()?)?;
        println!("{name} at {local}, {origin:?}");
    }
    AsyncListeners::new(listeners)
}

/// The next event, when there is room for another client.
async fn next(
    listeners: &mut AsyncListeners,
    places: &Arc<Semaphore>,
) -> Result<(Event<TcpStream>, OwnedSemaphorePermit), Error> {
    let place = Arc::clone(places).acquire_owned().await.expect("nobody closes it");
    loop {
        match listeners.event().await {
            // The other ports are still served.
            Err(error) if matches!(error.downcast_ref(), Some(ListenerError::Failed { .. })) => {
                eprintln!("web: {error}");
            }
            event => return Ok((event?, place)),
        }
    }
}

/// The pages, and the counter.
struct Site {
    pages: TowerToHyperService<Router>,
    status: TowerToHyperService<Router>,
    connections: Arc<AtomicU64>,
}

impl Default for Site {
    fn default() -> Site {
        let connections = Arc::new(AtomicU64::new(0));
        let pages = Router::new().route("/", get(hello));
        let status = Router::new().route("/", get(status)).with_state(Arc::clone(&connections));
        let service = TowerToHyperService::new;
        Site { pages: service(pages), status: service(status), connections }
    }
}

impl Site {
    /// Answers the requests of one connection, in a separate task.
    fn answer(&self, client: Connection<TcpStream>, place: OwnedSemaphorePermit, ending: &GracefulShutdown) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        let (pages, peer) = (if &*client.name == "status" { &self.status } else { &self.pages }.clone(), client.peer);
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            pages.call(request)
        });
        let _ = client.stream.set_nodelay(true);
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .serve_connection(TokioIo::new(client.stream), service);
        let connection = ending.watch(connection);
        tokio::spawn(async move {
            // A client that hangs up in the middle is not worth a message.
            let _ = timeout(LIFE, connection).await;
            drop(place);
        });
    }
}

/// The client's address is [`Connection::peer`]: IPv4 as such, also on a dual-stack socket.
async fn hello(Extension(peer): Extension<SocketAddr>) -> String {
    format!("hello, {}\n", peer.ip())
}

async fn status(State(connections): State<Arc<AtomicU64>>) -> String {
    let uid = rustix::process::getuid().as_raw();
    format!("uid {uid}, {} connections so far\n", connections.load(Ordering::Relaxed))
}
