//! Who is at the other end of a WebSocket: known when it was asked for, or by its first message, for pages
//! in browsers can show nothing before.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, header};
use shared::door::{InFlight, Peer};
use shared::security::access::Denied;
use shared::security::rate::Pace;
use tokio::time::Instant;

use crate::access::{Access, Requester};
use crate::admission::instant;
use crate::connection::Connection;

/// Who is at the other end, as far as it has said.
pub(super) struct Guest {
    /// `None` until it has proved who it is.
    pub(super) requester: Option<Requester>,
    peer: Option<Arc<Peer>>,
    connection: Option<Connection>,
    /// Others do not get its place while this is there.
    busy: Option<InFlight>,
    /// When it has to prove anew who it is.
    pub(super) until: Option<Instant>,
}

impl Guest {
    /// Who asked for the socket over this connection, if that is known already.
    pub(super) fn new(
        requester: Option<Requester>,
        peer: Option<Arc<Peer>>,
        connection: Option<Connection>,
    ) -> Self {
        let mut guest = Self {
            requester: None,
            peer,
            connection,
            busy: None,
            until: None,
        };
        if let Some(requester) = requester {
            guest.is(requester);
        }
        guest
    }

    /// How often it may ask, by whatever it has shown.
    pub(super) fn pace(&self, access: &Access) -> Pace {
        let requester = self.requester.as_ref();
        requester.map_or_else(Pace::default, |requester| {
            access.pace(requester, self.peer.as_deref())
        })
    }

    fn is(&mut self, requester: Requester) {
        if self.busy.is_none() {
            self.busy = self.connection.as_ref().map(Connection::begin);
        }
        self.until = requester.until().map(instant);
        self.requester = Some(requester);
    }

    /// It introduces itself with this `authorization`, or without one.
    ///
    /// # Errors
    /// When it has not proved who it is.
    pub(super) fn introduces_itself(
        &mut self,
        access: &Access,
        authorization: Option<&str>,
    ) -> Result<(), Denied> {
        if authorization.is_none() && self.requester.is_some() {
            return Ok(());
        }
        let header = |text: &str| {
            // What cannot be in a header is no token, but it was shown.
            let value = HeaderValue::from_str(text);
            value.unwrap_or_else(|_| HeaderValue::from_static("unreadable"))
        };
        let headers = authorization.map(|text| (header::AUTHORIZATION, header(text)));
        let peer = self.peer.as_ref();
        let certificate = peer.and_then(|peer| peer.certificate.as_ref());
        let requester = access.admit(&HeaderMap::from_iter(headers), certificate)?;
        self.is(requester);
        Ok(())
    }
}
