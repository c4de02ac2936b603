//! The same faults in front of a real cluster: a [`Proxy`] that clients take for Kafka.
//!
//! It listens on a port of its own for every broker, and writes these ports into the answers that name brokers (`rewrite.rs`), so that
//! a client that starts at [`Proxy::bootstrap_servers`] never leaves it. Each connection (`connection.rs`) has a connection of its own
//! to the broker, and one request at a time: read, logged, compared with the faults, forwarded, answered. What the proxy has to know of
//! the cluster for that, it learns from the answers that pass (`learned.rs`).

mod connection;
mod learned;
mod rewrite;

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use milena_protocol::ApiKey;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::failure;
use crate::faults::{FaultBuilder, Faults, Reaction, Rules, Site};
use crate::request_log::RequestLog;
use learned::Learned;

/// A door in front of a real Kafka cluster, with the faults and the request log of the in-process one.
///
/// ```no_run
/// # async fn f() -> std::io::Result<()> {
/// use milena_testkit::{Api, Proxy, Reaction};
///
/// let proxy = Proxy::builder("127.0.0.1:9092").seed(7).start().await?;
/// println!("connect to {}", proxy.bootstrap_servers());
/// let lost_ack = proxy.faults().when(Api::Produce).topic("orders").nth(3).then(Reaction::ApplyThenDisconnect);
/// let late = proxy.faults().when(Api::EndTxn).transactional_id("copy").then(Reaction::HoldCopy);
/// let join = proxy.stop_when(Api::JoinGroup).group("billing").before_serving();
/// // … drive the clients …
/// join.reached().await;
/// join.go_on();
/// late.release();
/// lost_ack.has_fired(1).await;
/// println!("{}", proxy.request_log().api(Api::Produce));
/// proxy.shutdown();
/// # Ok(()) }
/// ```
///
/// Plain text only (no TLS, and so no SASL worth having). The proxy makes no answers up, so that [`Reaction::Error`] and
/// [`Reaction::ApplyThenError`] are for the in-process cluster alone. Of an API that the kit does not know, faults see no topic, group
/// or transactional id. Brokers that only KIP-932 (share groups) answers name are not rewritten.
///
/// A fault that never fired fails the test when the proxy is shut down or dropped.
pub struct Proxy {
    core: Arc<Core>,
    stop: Option<oneshot::Sender<()>>,
    checked: bool,
}

/// What kind of proxy to start.
#[derive(Debug, Clone)]
pub struct ProxyBuilder {
    servers: String,
    seed: u64,
}

impl ProxyBuilder {
    /// The source of all chance in the faults (default 0).
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Asks the cluster for its brokers and starts a listener at 127.0.0.1 for each, on a thread of its own.
    ///
    /// # Errors
    /// When no bootstrap server answers, or a port cannot be bound.
    ///
    /// # Cancel safety
    /// A dropped future leaves nothing behind.
    #[expect(clippy::disallowed_methods, reason = "the proxy has a thread and a clock of its own")]
    pub async fn start(self) -> io::Result<Proxy> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let started = {
            let _clock = handle.enter();
            Instant::now()
        };
        let (stop, stopped) = oneshot::channel::<()>();
        std::thread::Builder::new().name("milena-testkit-proxy".to_owned()).spawn(move || {
            let _ = runtime.block_on(stopped); // then the runtime goes, and with it whatever runs on it
        })?;
        let inner = Inner {
            faults: Rules::new(self.seed),
            log: RequestLog::new(false),
            learned: Learned::default(),
            next_connection: 1,
            open: BTreeSet::new(),
        };
        let core = Arc::new(Core {
            inner: Mutex::new(inner),
            runtime: handle.clone(),
            started,
            seed: self.seed,
            generation: watch::channel(0).0,
        });
        let proxy = Proxy { core: Arc::clone(&core), stop: Some(stop), checked: false };
        let servers = self.servers;
        handle.spawn(async move { connection::discover(&core, &servers).await }).await.map_err(io::Error::other)??;
        Ok(proxy)
    }
}

impl Proxy {
    /// A proxy in front of the cluster with these bootstrap servers (`host:port`, separated by commas).
    pub fn builder(bootstrap_servers: impl Into<String>) -> ProxyBuilder {
        ProxyBuilder { servers: bootstrap_servers.into(), seed: 0 }
    }

    /// `host:port` of the proxy's listeners, separated by commas: what clients connect to.
    pub fn bootstrap_servers(&self) -> String {
        let ports = self.core.lock().learned.ports();
        ports.iter().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",")
    }

    /// Makes faults: *when* a request looks like this, *then* react like that.
    pub fn faults(&self) -> Faults {
        Faults { site: Arc::clone(&self.core) as Arc<dyn Site> }
    }

    /// Makes a barrier: *stop when* a request looks like this, and go on when the test says so. See [`Barrier`](crate::Barrier).
    pub fn stop_when(&self, api: impl Into<ApiKey>) -> FaultBuilder {
        self.faults().when(api)
    }

    /// What went through so far, to print and to ask.
    pub fn request_log(&self) -> RequestLog {
        self.core.lock().log.clone()
    }

    /// How many requests of an API have arrived.
    pub fn requests(&self, api: impl Into<ApiKey>) -> usize {
        let api = api.into();
        self.core.lock().log.entries().filter(|entry| entry.api == api).count()
    }

    /// Open connections of clients to a broker.
    pub fn connections(&self, broker: i32) -> usize {
        self.core.lock().open.iter().filter(|(of, _)| *of == broker).count()
    }

    /// Closes all connections of clients and those behind them; new ones are welcome.
    pub fn disconnect(&self) {
        self.core.note("the test closes all connections".to_owned());
        self.core.generation.send_modify(|generation| *generation += 1);
    }

    /// Ends the proxy: its listeners and its connections close.
    ///
    /// # Panics
    /// When a [fault](Self::faults) never fired.
    pub fn shutdown(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if std::mem::replace(&mut self.checked, true) {
            return;
        }
        let (silent, log) = {
            let mut inner = self.core.lock();
            let silent = inner.faults.silent();
            inner.faults.clear();
            (silent, inner.log.clone())
        };
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(()); // the thread has ended already if nobody listens
        }
        failure::judge(&silent, &log, self.core.seed);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.end();
    }
}

/// What all connections share.
struct Core {
    inner: Mutex<Inner>,
    runtime: Handle,
    started: Instant,
    seed: u64,
    /// Connections end when it changes.
    generation: watch::Sender<u64>,
}

struct Inner {
    faults: Rules,
    log: RequestLog,
    learned: Learned,
    next_connection: u64,
    /// Broker and number of the open connections.
    open: BTreeSet<(i32, u64)>,
}

impl Site for Core {
    fn with_rules(&self, f: &mut dyn FnMut(&mut Rules)) {
        // Whoever is held follows its fault itself: nothing has to be resumed here.
        f(&mut self.lock().faults);
    }

    fn refuses(&self, reaction: Reaction) -> Option<&'static str> {
        matches!(reaction, Reaction::Error(_) | Reaction::ApplyThenError(_)).then_some(
            "a proxy makes no answers up: use the in-process cluster, or a reaction that cuts, delays or repeats",
        )
    }
}

impl Core {
    /// Never held across an await, nor while a listener is bound by somebody else.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, text: String) {
        let at = {
            let _clock = self.runtime.enter();
            self.started.elapsed()
        };
        tracing::debug!(target: "milena_testkit", "{text}");
        self.lock().log.note(at, text);
    }

    /// The port of the proxy that stands for a broker: bound when the broker is heard of first.
    #[expect(clippy::disallowed_methods, reason = "a listener has a task of its own")]
    fn port_of(self: &Arc<Self>, broker: i32, host: &str, port: i32) -> io::Result<u16> {
        let upstream = format!("{host}:{port}");
        if let Some(known) = self.lock().learned.moved_to(broker, &upstream) {
            return Ok(known);
        }
        let listener = std::net::TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let (listener, port) = match self.lock().learned.add(broker, upstream, port) {
            Some(first) => return Ok(first), // somebody else was faster
            None => (listener, port),
        };
        let _clock = self.runtime.enter();
        let listener = TcpListener::from_std(listener)?;
        self.runtime.spawn(connection::listen(Arc::clone(self), broker, listener));
        Ok(port)
    }
}
