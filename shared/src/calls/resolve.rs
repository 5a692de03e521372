//! From names to addresses.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;

/// A question to a [`Resolve`] that goes on.
pub type Lookup<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'a>>;

/// Finds the addresses of a name.
pub trait Resolve: fmt::Debug + Send + Sync + 'static {
    /// The addresses behind `host:port`.
    fn resolve<'a>(&'a self, authority: &'a str) -> Lookup<'a>;
}

/// As the operating system finds them.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, authority: &'a str) -> Lookup<'a> {
        Box::pin(async move { Ok(tokio::net::lookup_host(authority).await?.collect()) })
    }
}
