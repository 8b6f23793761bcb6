//! The name of a client's address, from /etc/hosts and DNS. Only confirmed names count (feature `resolve`).

mod error;
mod host_name;
mod lookup;
mod system;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ::tokio::runtime::{Builder, Handle};
use ::tokio::sync::{Semaphore, oneshot, watch};
use ::tokio::time::timeout_at;
use moka::Expiry;
use moka::sync::Cache;

pub use error::NameServiceError;
pub use host_name::HostName;
use lookup::Found;
use system::{Service, Sources, System};

use crate::failure::Error;

/// The names of clients. A clone shares everything with the original; share one among all threads and tasks of a
/// server.
///
/// ```no_run
/// use portgrant_server::{Event, Listeners, Names, Sockets};
///
/// let names = Names::from_system()?;
/// let mut listeners = Listeners::from_sockets(Sockets::request(["79"])?)?;
/// while let Event::Connection(client) = listeners.event()? {
///     let names = names.clone();
///     std::thread::spawn(move || {
///         let ip = client.peer.ip();
///         match names.of(ip).name() {
///             Some(name) => println!("{name} ({ip}) connected"),
///             None => println!("{ip} connected"),
///         }
///     });
/// }
/// # Ok::<(), portgrant_server::Error>(())
/// ```
///
/// * **Names are confirmed.** The owner of an address can claim any name for it. The name is confirmed if its own
///   addresses (A, AAAA) contain the client's. A name that is not confirmed is reported as such, and is not a
///   [`HostName`]. A name still proves nobody's identity: DNS is not authenticated here.
/// * **A lookup ends in time.** The [`limit`](NamesBuilder::limit) applies to the whole lookup, including the time in
///   the queue.
/// * **Lookups are bounded**, however many clients connect and however slow DNS is: a number of lookups at once, and a
///   number in the queue. Further ones return [`ReverseName::Busy`] immediately. Two lookups of one address share the
///   answer.
/// * **Results are remembered**, for a bounded number of addresses, as long as DNS says within bounds.
/// * **/etc/hosts comes first.** The first name on a line is the host's. Loopback and link-local addresses are only
///   looked up there. An IPv4-mapped address has the name of the IPv4 address.
/// * **Changes are followed.** /etc/resolv.conf and /etc/hosts are read again when they change.
///
/// It has one thread, with a tokio runtime, independent of the server's own. Create it after the process has become a
/// daemon: fork(2) does not copy the thread. The thread ends with the last clone.
#[derive(Debug, Clone)]
pub struct Names(Arc<Desk>);

/// The result of a lookup. `Display` is one line of printable ASCII for a log.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReverseName {
    /// The name, which has this address
    Confirmed(HostName),
    /// The address has no name
    Missing,
    /// The address claims a name that does not have this address, or that is not valid
    Unconfirmed {
        /// The claim, made printable: only for logs
        claim: String,
    },
    /// There was no answer in time. The address may have a name
    TimedOut,
    /// The servers could not answer. The address may have a name
    Failed {
        /// Why, made printable
        why: String,
    },
    /// Too many other lookups are running, so this one was not started. The address may have a name
    Busy,
}

impl ReverseName {
    /// The name, if it is confirmed.
    pub fn name(&self) -> Option<&HostName> {
        match self {
            ReverseName::Confirmed(name) => Some(name),
            ReverseName::Missing
            | ReverseName::Unconfirmed { .. }
            | ReverseName::TimedOut
            | ReverseName::Failed { .. }
            | ReverseName::Busy => None,
        }
    }

    /// Whether another lookup later may return more.
    pub fn is_passing(&self) -> bool {
        matches!(self, ReverseName::TimedOut | ReverseName::Failed { .. } | ReverseName::Busy)
    }
}

impl fmt::Display for ReverseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReverseName::Confirmed(name) => name.fmt(f),
            ReverseName::Missing => f.write_str("no name"),
            ReverseName::Unconfirmed { claim } => write!(f, "unconfirmed name '{claim}'"),
            ReverseName::TimedOut => f.write_str("name unknown: no answer in time"),
            ReverseName::Failed { why } => write!(f, "name unknown: {why}"),
            ReverseName::Busy => f.write_str("name unknown: too many lookups"),
        }
    }
}

/// How names are looked up.
///
/// ```
/// use std::time::Duration;
/// use portgrant_server::Names;
///
/// let names = Names::builder().limit(Duration::from_secs(2)).remember(1_000).build()?;
/// println!("{}", names.of("127.0.0.1".parse()?)); // localhost, by /etc/hosts
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is asked until it is built"]
pub struct NamesBuilder {
    limit: Duration,
    at_once: usize,
    in_wait: usize,
    remember: u64,
    found: RangeInclusive<Duration>,
    not_found: RangeInclusive<Duration>,
    failed: Duration,
    servers: Vec<SocketAddr>,
    resolv_conf: PathBuf,
    hosts: PathBuf,
}

impl NamesBuilder {
    /// The limit of a whole lookup with all its questions, including the time in the queue. The default is 5 seconds.
    pub fn limit(self, limit: Duration) -> NamesBuilder {
        NamesBuilder { limit, ..self }
    }

    /// How many lookups run at once. The default is 64, the minimum 1. Each uses one or two sockets.
    pub fn at_once(self, lookups: usize) -> NamesBuilder {
        NamesBuilder { at_once: lookups.clamp(1, Semaphore::MAX_PERMITS), ..self }
    }

    /// How many further lookups wait in the queue. The default is 1,024. Others return [`ReverseName::Busy`].
    pub fn in_wait(self, lookups: usize) -> NamesBuilder {
        NamesBuilder { in_wait: lookups, ..self }
    }

    /// How many addresses are remembered. The default is 4,096.
    pub fn remember(self, addresses: u64) -> NamesBuilder {
        NamesBuilder { remember: addresses, ..self }
    }

    /// How long a confirmed name is remembered: as long as DNS says, within these bounds. The default is 10 seconds to
    /// an hour.
    pub fn found(self, bounds: RangeInclusive<Duration>) -> NamesBuilder {
        NamesBuilder { found: bounds, ..self }
    }

    /// How long it is remembered that there is no confirmed name. The default is 10 seconds to 5 minutes.
    pub fn not_found(self, bounds: RangeInclusive<Duration>) -> NamesBuilder {
        NamesBuilder { not_found: bounds, ..self }
    }

    /// How long it is remembered that there was no answer, so that a client that returns does not wait again. The
    /// default is 5 seconds.
    pub fn failed(self, time: Duration) -> NamesBuilder {
        NamesBuilder { failed: time, ..self }
    }

    /// Asks these DNS servers, by udp and tcp, instead of those in /etc/resolv.conf.
    pub fn servers(self, servers: impl IntoIterator<Item = SocketAddr>) -> NamesBuilder {
        NamesBuilder { servers: servers.into_iter().collect(), ..self }
    }

    /// Starts.
    ///
    /// # Errors
    /// [`NameServiceError`] if /etc/resolv.conf or /etc/hosts exists but cannot be read;
    /// [`SystemError`](crate::error::SystemError) if the thread cannot be started.
    pub fn build(self) -> Result<Names, Error> {
        let sources = Sources {
            resolv_conf: self.resolv_conf.clone(),
            hosts: self.hosts.clone(),
            servers: self.servers.clone(),
            limit: self.limit,
            questions: self.at_once,
        };
        let book = Book {
            system: System::read(sources)?,
            cache: Cache::builder().max_capacity(self.remember).expire_after(ItsOwn).build(),
            under_way: Mutex::default(),
            turns: Semaphore::new(self.at_once),
            settings: self,
        };
        Ok(Names(Arc::new(Desk::open(book)?)))
    }
}

impl Names {
    /// With the servers and names of /etc/resolv.conf and /etc/hosts.
    ///
    /// # Errors
    /// Those of [`NamesBuilder::build`].
    pub fn from_system() -> Result<Names, Error> {
        Names::builder().build()
    }

    /// With other limits.
    pub fn builder() -> NamesBuilder {
        let seconds = Duration::from_secs;
        NamesBuilder {
            limit: seconds(5),
            at_once: 64,
            in_wait: 1024,
            remember: 4096,
            found: seconds(10)..=seconds(3600),
            not_found: seconds(10)..=seconds(300),
            failed: seconds(5),
            servers: Vec::new(),
            resolv_conf: "/etc/resolv.conf".into(),
            hosts: "/etc/hosts".into(),
        }
    }

    /// The name of a client's address. Blocks until it is known, at most for the [`limit`](NamesBuilder::limit).
    pub fn of(&self, address: IpAddr) -> ReverseName {
        match self.0.ask(address) {
            Asked::Known(name) => name,
            Asked::UnderWay(answer) => pollster::block_on(outcome(answer)),
        }
    }

    /// The same as a future, for any executor: the lookup runs in the thread of the names.
    ///
    /// If the future is dropped, the lookup continues. Its result is remembered, and serves others that wait for it.
    ///
    /// ```
    /// # async fn connected(names: portgrant_server::Names, peer: std::net::SocketAddr) {
    /// let name = names.of_async(peer.ip()).await;
    /// println!("{peer} ({name}) connected");
    /// # }
    /// ```
    pub async fn of_async(&self, address: IpAddr) -> ReverseName {
        match self.0.ask(address) {
            Asked::Known(name) => name,
            Asked::UnderWay(answer) => outcome(answer).await,
        }
    }

    /// What is remembered about the address, without a lookup.
    pub fn remembered(&self, address: IpAddr) -> Option<ReverseName> {
        self.0.book.remembered(address.to_canonical())
    }
}

type Answer = watch::Receiver<Option<ReverseName>>;

enum Asked {
    Known(ReverseName),
    UnderWay(Answer),
}

async fn outcome(mut answer: Answer) -> ReverseName {
    match answer.wait_for(Option::is_some).await.as_deref() {
        Ok(Some(name)) => name.clone(),
        Ok(None) | Err(_) => ReverseName::Failed { why: "the lookup broke off".to_owned() },
    }
}

/// Keeps the thread for lookups running.
#[derive(Debug)]
struct Desk {
    book: Arc<Book>,
    runtime: Handle,
    /// The thread ends when this is dropped
    _open: oneshot::Sender<()>,
}

impl Desk {
    fn open(book: Book) -> Result<Desk, Error> {
        let failed = |source: io::Error| Error::system("cannot start the thread that asks for names", source);
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let handle = runtime.handle().clone();
        let (open, closed) = oneshot::channel::<()>();
        let serve = move || {
            let _ = runtime.block_on(closed);
        };
        thread::Builder::new().name("names".to_owned()).spawn(serve).map_err(failed)?;
        Ok(Desk { book: Arc::new(book), runtime: handle, _open: open })
    }

    fn ask(&self, address: IpAddr) -> Asked {
        let address = address.to_canonical();
        if let Some(name) = self.book.remembered(address) {
            return Asked::Known(name);
        }
        let mut under_way = self.book.under_way();
        if let Some(answer) = under_way.get(&address) {
            return Asked::UnderWay(answer.clone());
        }
        // The lookup may have ended just now.
        if let Some(name) = self.book.remembered(address) {
            return Asked::Known(name);
        }
        let settings = &self.book.settings;
        if under_way.len() >= settings.at_once.saturating_add(settings.in_wait) {
            return Asked::Known(ReverseName::Busy);
        }
        let (tell, answer) = watch::channel(None);
        under_way.insert(address, answer.clone());
        let end = Instant::now().checked_add(settings.limit);
        self.runtime.spawn(look_up(UnderWay { book: Arc::clone(&self.book), address }, tell, end));
        Asked::UnderWay(answer)
    }
}

/// What is known and what is being looked up.
#[derive(Debug)]
struct Book {
    system: System,
    cache: Cache<IpAddr, Kept>,
    under_way: Mutex<HashMap<IpAddr, Answer>>,
    turns: Semaphore,
    settings: NamesBuilder,
}

impl Book {
    fn remembered(&self, address: IpAddr) -> Option<ReverseName> {
        self.cache.get(&address).map(|kept| kept.name)
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<IpAddr, Answer>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The servers to ask. If they have changed, answers of the others are forgotten.
    fn service(&self) -> Arc<Service> {
        let Some(service) = self.system.news() else { return self.system.service() };
        self.cache.invalidate_all();
        service
    }

    fn keep(&self, address: IpAddr, found: &Found) {
        let bounds = match found.name {
            ReverseName::Confirmed(_) => &self.settings.found,
            ReverseName::Missing | ReverseName::Unconfirmed { .. } => &self.settings.not_found,
            ReverseName::TimedOut | ReverseName::Failed { .. } => &(self.settings.failed..=self.settings.failed),
            ReverseName::Busy => return,
        };
        let lives = found.lives.unwrap_or_default().min(*bounds.end()).max(*bounds.start());
        self.cache.insert(address, Kept { name: found.name.clone(), lives });
    }
}

/// A running lookup. When this is dropped, it is no longer running.
struct UnderWay {
    book: Arc<Book>,
    address: IpAddr,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.book.under_way().remove(&self.address);
    }
}

async fn look_up(lookup: UnderWay, tell: watch::Sender<Option<ReverseName>>, end: Option<Instant>) {
    let work = async {
        let _turn = lookup.book.turns.acquire().await;
        let service = lookup.book.service();
        lookup::name_of(&service, lookup.address).await
    };
    let found = match end {
        Some(end) => timeout_at(end.into(), work).await.unwrap_or_else(|_| ReverseName::TimedOut.into()),
        None => work.await,
    };
    lookup.book.keep(lookup.address, &found);
    // Remember first, then drop: a caller that does not find the lookup running finds its result.
    drop(lookup);
    tell.send_replace(Some(found.name));
}

#[derive(Debug, Clone)]
struct Kept {
    name: ReverseName,
    lives: Duration,
}

/// Each entry has its own expiry time.
struct ItsOwn;

impl Expiry<IpAddr, Kept> for ItsOwn {
    fn expire_after_create(&self, _: &IpAddr, kept: &Kept, _: Instant) -> Option<Duration> {
        Some(kept.lives)
    }

    fn expire_after_update(&self, _: &IpAddr, kept: &Kept, _: Instant, _: Option<Duration>) -> Option<Duration> {
        Some(kept.lives)
    }
}
