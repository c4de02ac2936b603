//! From a host name and port to addresses, all of which are tried. A resolver is a `tower::Service<(String, u16)>`.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tower::Service;
use tower::util::BoxCloneSyncService;

/// Any resolver.
pub(crate) type BoxResolver = BoxCloneSyncService<(String, u16), Vec<SocketAddr>, io::Error>;

pub(crate) fn boxed<S>(resolver: S) -> BoxResolver
where
    S: Service<(String, u16), Response = Vec<SocketAddr>, Error = io::Error> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    BoxCloneSyncService::new(resolver)
}

/// The operating system's resolver.
#[derive(Debug, Clone, Default)]
pub struct SystemResolver;

impl Service<(String, u16)> for SystemResolver {
    type Response = Vec<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (host, port): (String, u16)) -> Self::Future {
        Box::pin(async move { Ok(tokio::net::lookup_host((host.as_str(), port)).await?.collect()) })
    }
}
