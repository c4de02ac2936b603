//! From an address to a byte stream. A connector is a `tower::Service<SocketAddr>`, so the test kit's in-memory network needs no
//! trait of ours, and a user can wrap the default one (a proxy, a bandwidth limit) with any tower layer.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt};

/// A connected stream of bytes.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> ByteStream for T {}

/// Any stream.
pub(crate) type BoxStream = Box<dyn ByteStream>;

/// Any connector.
pub(crate) type BoxConnector = BoxCloneSyncService<SocketAddr, BoxStream, io::Error>;

pub(crate) fn boxed<S>(connector: S) -> BoxConnector
where
    S: Service<SocketAddr, Error = io::Error> + Clone + Send + Sync + 'static,
    S::Response: ByteStream,
    S::Future: Send + 'static,
{
    BoxCloneSyncService::new(connector.map_response(|stream| Box::new(stream) as BoxStream))
}

/// Plain TCP: no delay (a reply must not wait for Nagle), keep-alive after 60 s of silence.
#[derive(Debug, Clone, Default)]
pub struct TcpConnector;

impl Service<SocketAddr> for TcpConnector {
    type Response = TcpStream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, address: SocketAddr) -> Self::Future {
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let keepalive = socket2::TcpKeepalive::new().with_time(Duration::from_secs(60));
            socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
            Ok(stream)
        })
    }
}
