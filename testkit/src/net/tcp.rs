//! TCP on 127.0.0.1: one listener per broker, so that any Kafka client can connect.

#![expect(clippy::disallowed_methods, reason = "a driver: it waits before it accepts again after a failure")]

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};

use super::connection;
use crate::event_loop::Shared;

/// Binds a broker's port; 0 takes a free one.
pub(crate) fn bind(port: u16) -> io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Accepts connections of a broker while it is up. A broker that is down has no listener, so that connections are refused; when it
/// comes back it takes its old port again, or says in Metadata that it has a new one.
pub(crate) async fn listen(
    shared: Arc<Shared>,
    broker: i32,
    first: std::net::TcpListener,
    mut up: watch::Receiver<Option<bool>>,
) {
    let Ok(address) = first.local_addr() else { return };
    let mut bound = Some(first);
    loop {
        let state = *up.borrow_and_update();
        match state {
            None => return,
            Some(false) => {
                bound = None;
                if up.changed().await.is_err() {
                    return;
                }
            }
            Some(true) => {
                let listener = match bound.take().map_or_else(|| bind(address.port()).or_else(|_| bind(0)), Ok) {
                    Ok(listener) => listener,
                    Err(e) => {
                        tracing::error!(target: "milena_testkit", broker, error = %e, "the broker cannot listen");
                        return;
                    }
                };
                if let Ok(now_at) = listener.local_addr() {
                    shared.control(|state| {
                        if let Some(entry) = state.brokers.get_mut(&broker) {
                            entry.port = now_at.port();
                        }
                    });
                }
                let Ok(listener) = TcpListener::from_std(listener) else { return };
                tokio::select! {
                    biased;
                    changed = up.changed() => {
                        if changed.is_err() {
                            return;
                        }
                    }
                    () = accept(&shared, broker, &listener) => {}
                }
            }
        }
    }
}

async fn accept(shared: &Arc<Shared>, broker: i32, listener: &TcpListener) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                tracing::warn!(target: "milena_testkit", broker, error = %e, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await; // out of file descriptors, most likely
                continue;
            }
        };
        let _ = stream.set_nodelay(true); // an option that fails costs latency only
        let (answers, replies) = mpsc::unbounded_channel();
        let (cut, was_cut) = oneshot::channel();
        let connected = shared.control_at(|state, now| state.on_connected(broker, answers, cut, now));
        if let Some(id) = connected {
            shared.spawn(connection::run(Arc::clone(shared), id, stream, replies, was_cut));
        }
    }
}
