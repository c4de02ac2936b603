//! From a broker's host and port to a wire that is ready for requests: resolve, connect (every address of the name), hand-shake,
//! all inside one set-up deadline.

#![expect(clippy::disallowed_methods, reason = "a driver: it awaits sockets and the set-up deadline")]

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};
use tower::ServiceExt;

use super::features::Features;
use super::generation::Generations;
use super::handshake::{Handshake, Send, Step};
use super::wire::{Wire, WireCounters};
use crate::seam::connector::{BoxConnector, BoxStream};
use crate::seam::resolver::BoxResolver;
use crate::{Error, ErrorKind};

/// Everything that a new connection needs to know.
#[derive(Clone)]
pub(crate) struct Establish {
    pub(crate) connector: BoxConnector,
    pub(crate) resolver: BoxResolver,
    pub(crate) client_id: Arc<str>,
    pub(crate) setup_timeout: Duration,
    pub(crate) max_frame: usize,
    pub(crate) counters: WireCounters,
    pub(crate) features: Arc<Features>,
    pub(crate) generations: Generations,
}

impl Establish {
    /// Connects to `host:port`.
    pub(crate) async fn wire(&self, broker: i32, host: &str, port: u16) -> Result<Wire, Error> {
        let deadline = Instant::now() + self.setup_timeout;
        let name = format!("{host}:{port}");
        let addresses = match timeout_at(deadline, self.resolver.clone().oneshot((host.to_owned(), port))).await {
            Ok(Ok(addresses)) if !addresses.is_empty() => addresses,
            Ok(Ok(_)) => return Err(unreachable(broker, &name, "the name has no address")),
            Ok(Err(error)) => return Err(unreachable(broker, &name, &format!("the name cannot be resolved: {error}"))),
            Err(_) => return Err(unreachable(broker, &name, "the name was not resolved in time")),
        };
        let mut last = None;
        for address in addresses {
            match timeout_at(deadline, self.connect(broker, &name, address)).await {
                Ok(Ok(wire)) => return Ok(wire),
                Ok(Err(error)) => last = Some(error),
                Err(_) => {
                    return Err(unreachable(
                        broker,
                        &name,
                        &format!(
                            "the connection was not ready after {} s: a firewall may drop packets, or the port speaks another protocol",
                            self.setup_timeout.as_secs_f64()
                        ),
                    ));
                }
            }
        }
        Err(match last {
            Some(error) if error.kind() == ErrorKind::Connect => unreachable(broker, &name, &error.to_string()),
            Some(error) => error,
            None => unreachable(broker, &name, "the name has no address"),
        })
    }

    async fn connect(&self, broker: i32, name: &str, address: SocketAddr) -> Result<Wire, Error> {
        // Before the connection is made: the address is one of this start, and may be another cluster's in the next.
        let generation = self.generations.present();
        let stream: BoxStream = self
            .connector
            .clone()
            .oneshot(address)
            .await
            .map_err(|error: io::Error| Error::new(ErrorKind::Connect, format!("{address}: {error}")))?;
        let mut wire = Wire::new(
            stream,
            broker,
            Arc::from(name),
            self.client_id.clone(),
            self.max_frame,
            self.counters.clone(),
            generation,
        );
        let mut handshake = Handshake::new();
        let mut send = handshake.start()?;
        loop {
            let body = exchange(&mut wire, send, Instant::now() + self.setup_timeout).await?;
            match handshake.on_response(body).map_err(|error| error.with_broker(broker))? {
                Step::Send(next) => send = next,
                Step::Ready(versions) => {
                    self.features.on_handshake(&versions);
                    wire.set_versions(versions);
                    return Ok(wire);
                }
            }
        }
    }
}

async fn exchange(wire: &mut Wire, send: Send, deadline: Instant) -> Result<Bytes, Error> {
    wire.submit(send.api, send.version, send.flexible, [send.body], deadline);
    std::future::poll_fn(|cx| wire.poll_flush(cx)).await?;
    let (_, body) = std::future::poll_fn(|cx| wire.poll_response(cx)).await?;
    Ok(body)
}

pub(crate) fn unreachable(broker: i32, name: &str, why: &str) -> Error {
    let error = Error::new(
        ErrorKind::Connect,
        format!(
            "{name} cannot be reached: {why}. Check the name and the port, that the broker runs there, and that its advertised \
             listener is right."
        ),
    );
    error.with_broker(broker)
}
