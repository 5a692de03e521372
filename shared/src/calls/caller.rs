//! All of it together.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use tonic::Status;
use tonic::body::Body;
use tower::Service;

use super::balance::{Balance, BalanceOptions};
use super::deadline::{DEFAULT_DEADLINE, Deadlines};
use super::methods::Methods;
use super::resolve::{Resolve, SystemResolver};
use super::retry::{Figures, Retry, RetryOptions};
use super::targets::Targets;
use super::{Call, Request};

/// How calls are made.
#[derive(Debug, Clone)]
pub struct Options {
    /// The time for a unary call that is given none by [`tonic::Request::set_timeout`].
    pub deadline: Duration,
    /// Which failures are tried again.
    pub retry: RetryOptions,
    /// How servers are found and watched.
    pub balance: BalanceOptions,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            deadline: DEFAULT_DEADLINE,
            retry: RetryOptions::default(),
            balance: BalanceOptions::default(),
        }
    }
}

/// What a client made so far. Calls to the health services of servers are not in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts {
    /// Calls begun.
    pub calls: u64,
    /// Attempts begun for them; more than calls when some were tried again.
    pub attempts: u64,
    /// Attempts that were given to each server that is known at present, by its address.
    pub by_server: Vec<(String, u64)>,
}

/// What a generated client calls through: `UserServiceClient::new(caller)`. Clones share their
/// connections and counts.
#[derive(Debug, Clone)]
pub struct Caller {
    stack: Deadlines<Retry<Balance>>,
    balance: Balance,
    figures: Arc<Figures>,
}

impl Caller {
    /// A client for the servers behind `targets`. Connecting goes on in the background, and calls
    /// wait for it.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(targets: Targets, methods: Methods, options: Options) -> Self {
        Self::with_resolver(targets, methods, options, Arc::new(SystemResolver))
    }

    /// The same, with names looked up by `resolver`.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn with_resolver(
        targets: Targets,
        methods: Methods,
        options: Options,
        resolver: Arc<dyn Resolve>,
    ) -> Self {
        let balance = Balance::new(targets, resolver, options.balance);
        let retry = Retry::new(balance.clone(), methods.clone(), options.retry);
        let figures = retry.figures();
        Self {
            stack: Deadlines::new(retry, methods, options.deadline),
            balance,
            figures,
        }
    }

    /// What was done so far.
    pub fn counts(&self) -> Counts {
        Counts {
            calls: self.figures.calls.load(Ordering::Relaxed),
            attempts: self.figures.attempts.load(Ordering::Relaxed),
            by_server: self.balance.counts(),
        }
    }

    /// The layer that knows the servers.
    pub fn balance(&self) -> &Balance {
        &self.balance
    }
}

impl Service<Request> for Caller {
    type Response = http::Response<Body>;
    type Error = Status;
    type Future = Call;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.stack.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Call {
        self.stack.call(request)
    }
}
