//! Who gets in, changed while a server runs.

use std::sync::Arc;

use parking_lot::RwLock;

use super::policy::Policy;
use super::settings::ServerSettings;
use super::tls::{Prepared, ServerTls};
use crate::lifecycle::Applied;

/// What a server asks of its callers, now. All clones are one.
#[derive(Debug, Clone, Default)]
pub struct LivePolicy(Arc<RwLock<Policy>>);

impl LivePolicy {
    /// Begins with this.
    pub fn new(policy: Policy) -> Self {
        Self(Arc::new(RwLock::new(policy)))
    }

    /// What counts for a request that comes now.
    pub fn now(&self) -> Policy {
        self.0.read().clone()
    }

    fn put(&self, policy: Policy) {
        *self.0.write() = policy;
    }
}

/// Changes who gets into a server.
#[derive(Debug)]
pub struct LiveSecurity {
    in_force: ServerSettings,
    tls: Option<Arc<ServerTls>>,
    policy: LivePolicy,
}

/// Settings that were found to be usable, and are not in use yet.
#[derive(Debug)]
#[must_use = "nothing changes before it is put into force"]
pub enum Plan {
    /// Everything stays as it is.
    Held,
    /// These.
    Use(Box<ServerSettings>, Option<Box<Prepared>>),
}

const TLS: &[&str] = &[
    "tls-cert",
    "tls-key",
    "tls-client-ca",
    "tls-client-auth",
    "tls-crl",
];
const TOKENS: &[&str] = &["token-key-file", "token-key", "token-audience"];

/// Listeners stay as they were opened, and were found to be safe with that.
const HELD: &str =
    "whether connections are encrypted and callers are asked who they are is settled at the start";

impl LiveSecurity {
    /// Of a server that was started with these settings, shakes hands by `tls` and asks its callers for
    /// what `policy` says.
    pub fn new(in_force: ServerSettings, tls: Option<Arc<ServerTls>>, policy: LivePolicy) -> Self {
        Self {
            in_force,
            tls,
            policy,
        }
    }

    /// Reads the certificates of `new`. Where a server would be open that was not, or the other way round,
    /// nothing changes before a restart: whether listeners may be open was asked of listeners that are to
    /// come.
    ///
    /// # Errors
    /// When they cannot be used.
    pub fn prepare(&self, new: &ServerSettings) -> Result<Plan, String> {
        let is_same = self.in_force.asks() == new.asks() && self.tls.is_some() == new.tls.is_some();
        if !is_same {
            return Ok(Plan::Held);
        }
        let prepared = match (&self.tls, &new.tls) {
            (Some(tls), Some(files)) => Some(tls.prepare(files.clone())),
            _ => None,
        };
        let prepared = prepared
            .transpose()
            .map_err(|error| format!("the certificates cannot be used: {error}"))?;
        Ok(Plan::Use(Box::new(new.clone()), prepared.map(Box::new)))
    }

    /// Puts it into force for connections and requests from now on. What has been let in by a token stays
    /// until that expires; connections whose certificate is good no more end.
    pub fn put(&mut self, plan: Plan) -> Applied {
        let mut applied = Applied::default();
        let Plan::Use(new, prepared) = plan else {
            applied.hold(TLS, HELD);
            applied.hold(TOKENS, HELD);
            return applied;
        };
        if let (Some(tls), Some(prepared)) = (&self.tls, prepared)
            && tls.use_prepared(*prepared)
        {
            applied.contents.push(("the certificate files", TLS));
        }
        if self.in_force.tokens != new.tokens {
            applied.contents.push(("the files of token keys", TOKENS));
        }
        let policy = Policy::new(new.tokens.clone(), new.asks_certificates());
        self.policy.put(policy);
        self.in_force = *new;
        applied
    }
}
